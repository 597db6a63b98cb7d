"""Record what the compiled kernels take: registers, shared memory, spills, size of code. Needs no GPU.

``python -m maintenance.kernel_resources -o benchmarks/results/kernel-resources.json``
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frcnn import __version__
from frcnn.plugins.cuda.compiler import compiler_version, resource_usage
from maintenance.kernel_forms import ARCHITECTURES, every_kernel

__all__ = ["main", "survey"]


def survey(architectures: tuple[str, ...] = ARCHITECTURES) -> dict[str, Any]:
    """Return a row for each form of each kernel and each architecture."""
    rows = []
    for label, kernel in every_kernel().items():
        for architecture in architectures:
            row = {"kernel": label, "architecture": architecture, "threads": kernel.block[0] * kernel.block[1]}
            rows.append(row | asdict(resource_usage(kernel, architecture)))
    return {"frcnn": __version__, "nvrtc": ".".join(map(str, compiler_version())), "rows": rows}


def main(arguments: list[str] | None = None) -> int:
    """Write the survey as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    chosen = parser.parse_args(arguments)
    found = survey()
    chosen.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    spilling = [row for row in found["rows"] if row["spill_bytes"]]
    maximum = max(row["registers"] for row in found["rows"])
    print(f"{len(found['rows'])} kernels, {len(spilling)} spill, at most {maximum} registers: {chosen.output}")
    return 1 if spilling else 0


if __name__ == "__main__":
    raise SystemExit(main())
