"""Record what the compiled kernels take: registers, shared memory, spills, size of code. Needs no GPU.

``python -m maintenance.kernel_resources -o benchmarks/results/kernel-resources.json``
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frcnn import __version__
from frcnn.plugins.cuda.compiler import compile_anew, compiler_version
from frcnn.plugins.kernel import Kernel
from maintenance.kernel_forms import ARCHITECTURES, every_kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of a kernel as the assembler reports them: per thread, static shared memory per block."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int
    code_bytes: int


def resource_usage(kernel: Kernel, architecture: str) -> Resources:
    """Compile a kernel for ``sm_NN`` without the cache, and return its resources; errors as ``compile_kernel``."""
    code, log = compile_anew(kernel, architecture, "--ptxas-options=-v")

    def total(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, log)))

    return Resources(
        registers=total(r"Used (\d+) registers"),
        shared_bytes=total(r"(\d+) bytes smem"),
        stack_bytes=total(r"(\d+) bytes stack frame"),
        spill_bytes=total(r"(\d+) bytes spill"),
        code_bytes=len(code),
    )


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
