#!/usr/bin/env python3
"""Everything that needs a GPU, in one run of at most 10 minutes, the most valuable part first.

    maintenance/gpu_session.py -o out/gpu              the parts, each with a time limit of its own
    maintenance/gpu_session.py -o out/gpu --rest       what does not fit: more of the sanitizer, engines
    maintenance/gpu_session.py -o out/gpu --rehearse   all that needs no GPU; fails where a part could not even start
    maintenance/gpu_session.py --list                  the parts, with their estimated seconds
    maintenance/gpu_session.py --fetch 3.12   into .carry/: what a system with that Python and no registry lacks

Needs no package but those of the parts, and frcnn need not be installed. Each part's figures are on disk before the
next one begins, so a stop at any moment keeps what was done: ``session.json`` has how every part ended, ``log.txt``
what they printed. One fault stops no other part; the exit status is 1 where there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).resolve().parents[1]
CARRIED: Final = ROOT / ".carry"
"""What a system without a registry lacks: ``site``, packages; ``models``, what takes long or many packages to make."""

_PACKAGES: Final = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "onnxscript", "msgspec", "pytest")
_PACKAGES_CUDA: Final = ("cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "cupy-cuda13x", "pycuda", "tensorrt")
_CARRY: Final = ("msgspec>=0.19,<1", "rich>=13.7,<16", "markdown-it-py>=3,<5", "mdurl>=0.1,<1", "pygments>=2.18,<3")
_PYTEST: Final = (
    *("-m", "pytest", "-c", "tests/gpu/pytest.ini", "--rootdir=."),
    *("--tb=short", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark"),
)
_GRACE_S: Final = 5.0
_DRAW: Final = """
import pathlib, sys
from maintenance.bench_models import MODELS, draw_images
draw_images(pathlib.Path(sys.argv[1]), MODELS["resnet50-fpn"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to be shown.

    Attributes:
        name: of its files, too.
        shows: what it shows.
        command: arguments of Python; ``{out}`` is the folder of results, ``{models}`` that of models.
        rehearsal: likewise, what of it needs no GPU.
        estimated_s: how long it takes; measured on an H200 for the first run and the sanitizer, else a guess.
        limit_s: it is killed then.
        is_rest: whether it is left for ``--rest``.
    """

    name: str
    shows: str
    command: tuple[str, ...]
    rehearsal: tuple[str, ...]
    estimated_s: int
    limit_s: int
    is_rest: bool = False


def _tests(name: str, *chosen: str) -> tuple[str, ...]:
    return (*_PYTEST, f"--junitxml={{out}}/{name}.xml", *chosen)


_MODELS: Final = ("-m", "maintenance.bench_models", "-o", "{models}", "--models")
_DEVICE_TESTS: Final = ("tests/gpu/test_cuda_device.py", "tests/gpu/test_interoperability.py")

PARTS: Final = (
    Part(
        name="operators",
        shows="every kernel against its reference, all element types, dynamic shapes, hostile boxes",
        command=_tests("operators", "{workers}", "tests/gpu/test_operators.py"),
        rehearsal=_tests("operators", "tests/gpu/test_operators.py"),
        estimated_s=42,
        limit_s=100,
    ),
    Part(
        name="device",
        shows="arrays and streams of other libraries, CUDA graphs, memory: nothing is copied, allocated or waited for",
        command=_tests("device", *_DEVICE_TESTS),
        rehearsal=_tests("device", *_DEVICE_TESTS),
        estimated_s=28,
        limit_s=60,
    ),
    Part(
        name="sanitizer",
        shows="compute-sanitizer's memcheck and racecheck over small runs of every kernel",
        command=_tests("sanitizer", "tests/gpu/test_sanitizer.py", "-k", "memcheck or racecheck"),
        rehearsal=("tests/gpu/sanitized.py", "--rehearse"),
        estimated_s=20,
        limit_s=60,
    ),
    Part(
        name="pipeline",
        shows="the whole pipeline with PyTorch's networks beside eager: parity, speed, stages, one CUDA graph, threads",
        command=("-m", "maintenance.pipeline_forms", "-o", "{out}/pipeline.json", "--images", "{models}/demo-images"),
        rehearsal=("-m", "maintenance.pipeline_forms", "--help"),
        estimated_s=150,
        limit_s=200,
    ),
    Part(
        name="kernels",
        shows="kernels against torchvision's CUDA operators, with bytes moved, floor and share of the roofline",
        command=("-m", "maintenance.kernels", "-o", "{out}/kernels.json", "{inputs}"),
        rehearsal=("-m", "maintenance.kernels", "--help"),
        estimated_s=57,
        limit_s=100,
    ),
    Part(
        name="eager",
        shows="eager R50-FPN at 800x1344: fp32, TF32, autocast, channels-last, torch.compile, batch 1 and 8",
        command=("-m", "maintenance.eager_forms", "-o", "{out}/eager.json"),
        rehearsal=("-m", "maintenance.eager_forms", "--help"),
        estimated_s=130,
        limit_s=160,
        is_rest=True,
    ),
    Part(
        name="sanitizer-rest",
        shows="compute-sanitizer's initcheck and synccheck",
        command=_tests("sanitizer-rest", "tests/gpu/test_sanitizer.py", "-k", "initcheck or synccheck"),
        rehearsal=("tests/gpu/sanitized.py", "--rehearse"),
        estimated_s=20,
        limit_s=60,
        is_rest=True,
    ),
    Part(
        name="tensorrt",
        shows="TensorRT's two forms beside eager and the naive export: speed, stages, parity, layers, replays",
        command=("-m", "maintenance.tensorrt_forms", "-o", "{out}/tensorrt.json", "--models", "{models}"),
        rehearsal=("-m", "maintenance.tensorrt_forms", "--help"),
        estimated_s=540,
        limit_s=570,
        is_rest=True,
    ),
    Part(
        name="models",
        shows="the demo and R50-FPN exported, and built for what serves this GPU: TensorRT, or ONNX Runtime",
        command=(*_MODELS, "demo", "resnet50-fpn", "--target", "auto", "--make-only"),
        rehearsal=(*_MODELS, "demo", "--target", "none", "--make-only"),
        estimated_s=150,
        limit_s=400,
        is_rest=True,
    ),
    Part(
        name="engines",
        shows="frcnn bench: artifacts against eager, image to boxes and network alone, parity",
        command=(
            *(*_MODELS, "demo", "resnet50-fpn", "--target", "auto", "--device", "cuda", "--results", "{out}"),
            *("--batch", "1,8", "--budget", "100", "--compile-limit", "0"),
        ),
        rehearsal=("-m", "maintenance.bench_models", "--help"),
        estimated_s=220,
        limit_s=400,
        is_rest=True,
    ),
    Part(
        name="engine-tests",
        shows="engines and the Detector on the GPU: graphs, batches, threads, streams, 10,000 calls, no growth",
        command=_tests("engine-tests", "tests/gpu/test_engine.py", "tests/gpu/test_detector.py"),
        rehearsal=_tests("engine-tests", "tests/gpu/test_engine.py", "tests/gpu/test_detector.py"),
        estimated_s=240,
        limit_s=500,
        is_rest=True,
    ),
)


class Session:
    """A run of parts.

    Args:
        out: folder of results.
        models: folder of models.
        rehearse: run what needs no GPU.
    """

    def __init__(self, out: Path, models: Path, *, rehearse: bool) -> None:
        self._out, self._models, self._rehearse = out, models, rehearse
        self._ended: list[dict[str, Any]] = []
        self._system = system()
        out.mkdir(parents=True, exist_ok=True)
        self._keep()

    def run(self, part: Part) -> bool:
        """Run a part within its limit, keep how it ended, and return whether it went well."""
        began = time.monotonic()
        command = [sys.executable, *self._filled(part.rehearsal if self._rehearse else part.command)]
        with tempfile.TemporaryDirectory(prefix="frcnn-cache-") as cache, (self._out / "log.txt").open("ab") as log:
            log.write(f"\n== {part.name}: {' '.join(command)}\n".encode())
            log.flush()
            status = run_limited(command, part.limit_s, self._environment(cache), log)
        entry = {
            "part": part.name,
            "shows": part.shows,
            "ended": how_it_ended(status),
            "seconds": round(time.monotonic() - began, 1),
            **_tests_of(self._out / f"{part.name}.xml"),
        }
        self._ended.append(entry)
        self._keep()
        print(f"{part.name}: {entry['ended']} in {entry['seconds']} s {entry.get('tests', '')}", flush=True)
        return status == 0

    def _filled(self, arguments: Sequence[str]) -> Iterator[str]:
        for argument in arguments:
            if argument == "{workers}":
                # the references run on the processor, several side by side
                yield from ("-n", str(min(12, os.cpu_count() or 1))) if find_spec("xdist") else ()
            elif argument == "{inputs}":
                inputs = self._models / "inputs.npz"
                yield from ("--inputs", str(inputs)) if inputs.exists() else ()
            else:
                yield argument.format(out=self._out, models=self._models)

    def _environment(self, cache: str) -> dict[str, str]:
        folders = ["src", "tests", str(CARRIED / "site"), os.environ.get("PYTHONPATH", "")]
        given = {
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "FRCNN_CACHE_DIR": cache,
            "FRCNN_GPU_MODELS": str(self._models),
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **given} | ({} if self._rehearse else {"FRCNN_REQUIRE_GPU": "1"})

    def _keep(self) -> None:
        report = {"system": self._system, "rehearsal": self._rehearse, "parts": self._ended}
        temporary = self._out / "session.json.tmp"
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._out / "session.json")


def system() -> dict[str, Any]:
    """Return the system's GPU, driver and packages."""
    smi = shutil.which("nvidia-smi")
    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    gpu = None
    if smi is not None:
        asked = [smi, f"--query-gpu={fields}", "--format=csv,noheader"]
        gpu = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    versions = {}
    for package in (*_PACKAGES, *_PACKAGES_CUDA):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "gpu": gpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def fetch(python: str, folder: Path) -> None:
    """Fetch the packages that a system with that Python lacks, and make the demo's exports, images and inputs.

    Needs ``frcnn[dev]`` here. The folder is replaced; it takes about 30 MiB.
    """
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [f"--platform=manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014")]
    given = ["--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    commands = (
        ("-m", "pip", "install", *given, *platforms, "--target", str(folder / "site"), *_CARRY),
        (*(part.format(models=folder / "models") for part in _MODELS), "demo", "--target", "none", "--make-only"),
        ("-c", _DRAW, str(folder / "models")),
        ("-m", "maintenance.kernel_inputs", "-o", str(folder / "models" / "inputs.npz")),
    )
    for command in commands:
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def run_limited(
    command: Sequence[str], limit_s: float, environment: dict[str, str] | None = None, log: Any = None
) -> int | None:
    """Run a command in the checkout and return its status, or None where it was killed, with all its children.

    They are killed, too, where this process gets SIGTERM: it then ends by SystemExit. For the main thread only.

    Args:
        command: program and arguments.
        limit_s: it is killed then.
        environment: of the command; this process's own if None.
        log: file that it prints into; None: where this process prints.
    """
    output = None if log is None else subprocess.STDOUT
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=output, start_new_session=True)
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            with suppress(ProcessLookupError):  # children that SIGTERM did not end
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.signal(signal.SIGTERM, before)


def how_it_ended(status: int | None) -> str:
    """Return the status of :func:`run_limited` in words."""
    return "timed out" if status is None else "passed" if status == 0 else f"failed ({status})"


def _tests_of(path: Path) -> dict[str, Any]:
    """Return the counts of a JUnit file and each failed test with the first line of its reason, and remove the file."""
    if not path.exists():
        return {}
    counts, failed, skipped = {"passed": 0, "failed": 0, "skipped": 0}, {}, set()
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        skip = case.find("skipped")
        counts["failed" if fault is not None else "skipped" if skip is not None else "passed"] += 1
        if fault is not None:
            failed[name] = (fault.get("message") or fault.text or "").strip().splitlines()[:3]
        elif skip is not None:
            skipped.add(skip.get("message") or "")
    path.unlink()
    return {"tests": counts, "failed": failed, "skipped": sorted(skipped)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/gpu"), help="folder of results")
    parser.add_argument(
        "--models", type=Path, default=CARRIED / "models", help="folder of models (default: %(default)s)"
    )
    parser.add_argument("--rest", action="store_true", help="the parts that do not fit the first run")
    parser.add_argument("--rehearse", action="store_true", help="what needs no GPU, of all parts")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts")
    parser.add_argument("--list", action="store_true", help="print the parts")
    parser.add_argument("--fetch", metavar="PYTHON", help="fetch what is carried to a system with that Python")
    chosen = parser.parse_args(arguments)
    if chosen.fetch:
        fetch(chosen.fetch, CARRIED)
        return 0
    parts = [part for part in PARTS if chosen.rehearse or part.is_rest == chosen.rest]
    if chosen.only:
        parts = [part for part in PARTS if part.name in chosen.only]
    if chosen.list:
        for part in PARTS:
            print(f"{part.name:15}{part.estimated_s:4} s, at most {part.limit_s:3} s  {part.shows}")
        return 0
    out = chosen.out.resolve()
    session = Session(out, chosen.models.resolve(), rehearse=chosen.rehearse)
    results = [session.run(part) for part in parts]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
