"""Which artifacts have run on which GPU: ``frcnn doctor``, ``build --help``, ``unpack`` and the documents all ask here.

What ran is in ``gpu_runs.json``, which ``make performance`` derives from the committed results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from frcnn.spec import PRECISIONS, Precision, Record
from frcnn.spec.engine import Form, Target

TARGET_NAMES: Final[Mapping[Target, str]] = {
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
    "onnxruntime": "ONNX Runtime",
}

GENERATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Turing": ("7.5",),
    "Ampere": ("8.0", "8.6"),
    "Ada": ("8.9",),
    "Hopper": ("9.0",),
    "Blackwell": ("10.0", "10.3"),
    "Blackwell RTX": ("12.0", "12.1"),
    "Jetson": ("8.7", "11.0"),
}
"""Compute capabilities by generation, oldest first."""


class GpuRun(Record, frozen=True, kw_only=True):
    """An artifact that detected on a GPU.

    Attributes:
        version: of the target's library, like ``"10.6.0"``.
        gpu: its name, like ``"NVIDIA H200"``.
        date: ISO 8601.
        loaded_by: other programs that loaded the same engine, like ``"trtexec 10.6.0"``.
        result: the file under ``benchmarks/results`` that says so.
    """

    target: Target
    version: str
    form: Form
    precision: Precision
    gpu: str
    compute_capability: str
    date: str
    result: str
    loaded_by: tuple[str, ...] = ()


@cache
def read_runs() -> tuple[GpuRun, ...]:
    """Return what has run, as this version of frcnn knows it."""
    return msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=tuple[GpuRun, ...])


def engine_name(target: Target, form: Form, version: str = "") -> str:
    """Return an engine's name; TensorRT's has its form, the others come as two engines only."""
    name = f"{TARGET_NAMES[target]} {version}".rstrip()
    return f"{name}, {'one plan' if form == 'plan' else 'two engines'}" if target == "tensorrt" else name


def generation_of(compute_capability: str) -> str | None:
    """Return the generation of a GPU, or None for one that no artifact is for."""
    return next((name for name, listed in GENERATIONS.items() if compute_capability in listed), None)


def summary(runs: Sequence[GpuRun]) -> str:
    """Return what has run, on which GPU and when, as a sentence."""
    if not runs:
        return "No artifact has run on a GPU yet."
    gpus = _grouped(runs, lambda run: run.gpu)
    return f"Artifacts have run on {'; on '.join(f'{gpu}: {_engines(found)}' for gpu, found in gpus.items())}."


def runs_on_generation(runs: Sequence[GpuRun], compute_capability: str) -> str:
    """Return what has run on GPUs of the generation of one, like ``"Hopper: no artifact has run yet"``."""
    generation = generation_of(compute_capability)
    here = generation or f"compute capability {compute_capability}"
    found = [run for run in runs if generation is not None and generation_of(run.compute_capability) == generation]
    gpus = ", ".join(dict.fromkeys(run.gpu for run in found))
    return f"{here}: ran on {gpus}: {_engines(found)}" if found else f"{here}: no artifact has run yet"


def loaded_by(runs: Sequence[GpuRun]) -> str:
    """Return which other programs loaded a plan with the operators inside, as a sentence."""
    programs = dict.fromkeys(
        f"{program} ({run.gpu}, {run.date})" for run in runs if run.form == "plan" for program in run.loaded_by
    )
    return f"Loaded so far by {', '.join(programs)}." if programs else "No such program has loaded one yet."


def _engines(runs: Iterable[GpuRun]) -> str:
    """Return each engine that ran with its version, precisions and dates."""
    texts = []
    for name, found in _grouped(runs, lambda run: engine_name(run.target, run.form, run.version)).items():
        precisions = [precision for precision in PRECISIONS if any(run.precision == precision for run in found)]
        texts.append(f"{name}, {' and '.join(precisions)} ({', '.join(sorted({run.date for run in found}))})")
    return "; ".join(texts)


def _grouped(runs: Iterable[GpuRun], key: Callable[[GpuRun], str]) -> dict[str, list[GpuRun]]:
    groups: dict[str, list[GpuRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return groups
