"""Time a request to Triton beside a call of the Detector in this process, alone and with eight at once.

It starts a tritonserver of its own, downloads what it needs into a temporary folder, and takes about four minutes:

    python -m maintenance.triton_speeds -o out/triton.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from frcnn.benchmarks.timing.environment import load_average, now, read_environment
from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.cli import main as frcnn
from frcnn.console import write_json
from frcnn.processors import available_cpus
from frcnn.runtime import Detector
from maintenance.triton_server import install_packages, run_client, serving

CLIENTS: Final = (1, 8)
CLIENT: Final = """
import json, sys
import tritonclient.http as http
from client import detect
from pathlib import Path
from threading import Thread
from time import perf_counter

url, name, clients, requests, *paths = sys.argv[1:]
files, times = [Path(path).read_bytes() for path in paths], []

def work():
    own = http.InferenceServerClient(url, network_timeout=300, connection_timeout=300)
    for index in range(int(requests)):
        start = perf_counter()
        detect(own, http, name, [files[index % len(files)]])
        times.append(1e3 * (perf_counter() - start))

threads = [Thread(target=work) for _ in range(int(clients))]
start = perf_counter()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([times, perf_counter() - start]))
"""
Timed = tuple[list[float], float]
"""Milliseconds of each request, and seconds of all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16, help="of a client in a round")
    options = parser.parse_args(argv)
    load = load_average()
    images = sorted((BUNDLE / "images").glob("*.jpg"))[:8]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("packages", "server"):
            (folder / part).mkdir()
        install_packages(folder / "packages")
        model = folder / "model.onnx"
        labels = str(BUNDLE / "labels.txt")
        frcnn(["export", str(CHECKPOINT), "--arch", ARCHITECTURE, "--labels", labels, "-o", str(model)])
        frcnn(["triton", str(model), "--name", "whole", "--backend", "python", "-o", str(folder / "whole")])
        with (
            Detector.load(model) as detector,
            serving(folder / "packages", [folder / "whole"], folder / "server") as server,
        ):

            def triton(clients: int) -> Timed:
                counts = (str(clients), str(options.requests))
                done = run_client(folder / "packages", "-c", CLIENT, server.http, "whole", *counts, *images)
                times, total = json.loads(done.stdout)
                return times, total

            def alone(clients: int) -> Timed:
                return _in_process(detector, [path.read_bytes() for path in images], clients, options.requests)

            rows = _measure({"in process": alone, "through Triton": triton}, options.rounds)
    environment = read_environment(
        command="python -m maintenance.triton_speeds", threads=available_cpus(), load_before=load, date=now(), gpu=None
    )
    document = {"environment": environment, "rounds": options.rounds, "requests": options.requests, "rows": rows}
    write_json(document, str(options.output))
    for row in rows:
        print(row)
    return 0


def _measure(ways: dict[str, Callable[[int], Timed]], rounds: int) -> list[dict[str, Any]]:
    """Return medians of interleaved rounds; the first is not counted."""
    found: dict[tuple[str, int], list[Timed]] = {}
    for _ in range(rounds + 1):
        for clients in CLIENTS:
            for name, run in ways.items():
                found.setdefault((name, clients), []).append(run(clients))
    rows = []
    for (name, clients), (_, *timed) in found.items():
        times = sorted(time_ms for one, _ in timed for time_ms in one)
        rates = [len(one) / seconds for one, seconds in timed]
        spread = statistics.quantiles(times, n=20)
        rows.append(
            {
                "way": name,
                "clients": clients,
                "median_ms": statistics.median(times),
                "p95_ms": spread[-1],
                "images_per_s": statistics.median(rates),
                "images_per_s_of_rounds": rates,
            }
        )
    return rows


def _in_process(detector: Detector, files: Sequence[bytes], clients: int, requests: int) -> Timed:
    times: list[float] = []

    def work() -> None:
        for index in range(requests):
            start = time.perf_counter()
            detector([files[index % len(files)]])
            times.append(1e3 * (time.perf_counter() - start))

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
