"""Time the C++ program beside the Python runtime: the demo's model, one photograph, the same library and threads.

The program is built first (docs/how-to/cpp.md), in Release, with the ONNX Runtime that Python has. About two minutes:

    python -m maintenance.cpp_speed --program build/detect_onnxruntime -o out/cpp.json

Both read, decode and prepare the file each time. What the program does once is in the time of one image, which is
subtracted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from frcnn.benchmarks.timing.environment import load_average, now, read_environment
from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.cli import main as frcnn
from frcnn.console import write_json
from frcnn.processors import available_cpus
from frcnn.runtime import Detector


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=50, help="of a round")
    options = parser.parse_args(argv)
    load, threads, image = load_average(), available_cpus(), BUNDLE / "images" / "00001.jpg"
    found: dict[str, list[float]] = {"C++": [], "Python": []}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        frcnn(["export", str(CHECKPOINT), "--arch", ARCHITECTURE, "-o", str(model)])
        with Detector.load(model, threads=threads) as detector:
            for _ in range(options.rounds + 1):
                once, often = (_run(options.program, model, [image] * n, threads) for n in (1, 1 + options.images))
                found["C++"].append((often - once) / options.images)
                start = time.perf_counter()
                for _ in range(options.images):
                    detector([image])
                found["Python"].append(1e3 * (time.perf_counter() - start) / options.images)
    environment = read_environment(
        command="python -m maintenance.cpp_speed", threads=threads, load_before=load, date=now(), gpu=None
    )
    rows = [{"way": name, **_spread(times[1:])} for name, times in found.items()]  # the first round warms up
    document = {"environment": environment, "rounds": options.rounds, "images": options.images, "rows": rows}
    write_json(document, str(options.output))
    for row in rows:
        print(row)
    return 0


def _run(program: Path, model: Path, images: list[Path], threads: int) -> float:
    """Return the milliseconds of a run of the program."""
    start = time.perf_counter()
    subprocess.run([program, model, *images, "--threads", str(threads)], check=True, stdout=subprocess.DEVNULL)
    return 1e3 * (time.perf_counter() - start)


def _spread(times_ms: list[float]) -> dict[str, float]:
    """Return median and quartiles of the rounds, in milliseconds an image."""
    low, median, high = statistics.quantiles(times_ms, n=4)
    return {"median_ms": median, "p25_ms": low, "p75_ms": high}


if __name__ == "__main__":
    raise SystemExit(main())
