"""``profile.json``: the time of each stage and each layer of a detection, and how it was measured.

Times are milliseconds of one batch. Every number was measured in the run that wrote it; what was not is None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, Literal, get_args

from frcnn.benchmarks.profile.stage_names import NETWORK_STAGES, NetworkStage
from frcnn.benchmarks.report.results import Environment
from frcnn.spec import Record, Size

__all__ = [
    "SCHEMA_VERSION",
    "STAGES",
    "LayerRun",
    "LayerTime",
    "Measured",
    "Profile",
    "StageName",
    "StageTime",
    "layer_times",
    "stage_times",
]

SCHEMA_VERSION: Final = 1

HostStage = Literal["decode", "preprocess", "copies", "between layers"]
StageName = HostStage | NetworkStage
STAGES: Final[tuple[StageName, ...]] = ("decode", "copies", "preprocess", *NETWORK_STAGES, "between layers")
"""In the order that data flows. ``copies`` are those between host and GPU; ``between layers`` is the network's time
beyond the sum of its layers."""
assert set(STAGES) == {*get_args(HostStage), *NETWORK_STAGES}


class LayerRun(Record, frozen=True, kw_only=True):
    """A layer in one run.

    Attributes:
        name: unique in the network.
        op: its operator or kernel; empty where the runtime does not say.
        stage: the part of a detection.
        ms: its time.
        gflop: its multiplications and additions in 10^9; None where they are not known.
    """

    name: str
    op: str
    stage: NetworkStage
    ms: float
    gflop: float | None = None


class Measured(Record, frozen=True, kw_only=True):
    """The times of a model file, run by run.

    Attributes:
        device: what it ran on.
        runs: the layers of every run.
        more: milliseconds by run of what is no layer, such as decoding; added to the stage of that name.
        network_ms: see ``Profile``.
        profiled_ms: likewise.
    """

    device: str
    runs: list[list[LayerRun]]
    more: dict[StageName, list[float]]
    network_ms: float
    profiled_ms: float


class LayerTime(LayerRun, frozen=True, kw_only=True):
    """A layer over all runs: ``ms`` is the median, ``gflop`` counts convolutions and matrix products as they ran.

    In ONNX Runtime and TensorRT a layer may be several nodes of the file, and channels may be padded.

    Attributes:
        share: of a whole detection, 0 to 1.
        gflop_per_s: the rate; None where the work is not known.
    """

    share: float
    gflop_per_s: float | None


class StageTime(Record, frozen=True, kw_only=True):
    """A stage over all runs.

    Attributes:
        name: the stage.
        ms: the median of its runs' sums.
        share: of a whole detection, 0 to 1; all stages together have 1.
        layers: how many it has.
        gflop: of its layers whose work is known; None where there are none.
        gflop_per_s: their work by the time of all its layers, or None.
    """

    name: StageName
    ms: float
    share: float
    layers: int
    gflop: float | None
    gflop_per_s: float | None


class Profile(Record, frozen=True, kw_only=True):
    """Where the time goes.

    Attributes:
        schema_version: of this layout.
        environment: the system, the versions and the command.
        model: the file.
        sha256: of the file.
        architecture: of the model.
        runtime: ``"onnxruntime"``, ``"tensorrt-rtx"`` or ``"tensorrt"``.
        device: what it ran on.
        precision: of the heavy layers.
        batch: images at a time; all times are of a batch.
        canvas: (height, width) in pixels.
        source: of the images: ``"given"``, or a sentence that names those that frcnn brings along.
        images: names of the images that were detected in.
        repeats: runs that were measured, after one that warmed up.
        total_ms: all stages together.
        network_ms: the median of runs without a profiler: the network in ONNX Runtime, by the clock; in an engine
            artifact everything from the upload of sizes to the download of detections, as one CUDA graph.
        profiled_ms: the same with the profiler.
        stages: in the order that data flows.
        layers: the slowest first.
    """

    schema_version: int
    environment: Environment
    model: str
    sha256: str
    architecture: str
    runtime: str
    device: str
    precision: str
    batch: int
    canvas: Size
    source: str
    images: tuple[str, ...]
    repeats: int
    total_ms: float
    network_ms: float
    profiled_ms: float
    stages: tuple[StageTime, ...]
    layers: tuple[LayerTime, ...]


def stage_times(runs: Sequence[Sequence[LayerRun]], more: Mapping[StageName, Sequence[float]]) -> list[StageTime]:
    """Sum layers up by stage; see ``Measured`` for the arguments."""
    by_stage: dict[StageName, list[float]] = {stage: list(times) for stage, times in more.items()}
    for index, run in enumerate(runs):
        for layer in run:
            by_stage.setdefault(layer.stage, [0.0] * len(runs))[index] += layer.ms
    medians = {stage: median(by_stage[stage]) for stage in STAGES if stage in by_stage}
    total = sum(medians.values()) or 1.0
    stages = []
    for stage, ms in medians.items():
        layers = [[layer for layer in run if layer.stage == stage] for run in runs]
        known = [[layer.gflop for layer in run if layer.gflop is not None] for run in layers]
        gflop = median(sum(work) for work in known if work) if any(known) else None
        stages.append(
            StageTime(
                name=stage,
                ms=ms,
                share=ms / total,
                layers=max(map(len, layers)),
                gflop=gflop,
                gflop_per_s=_rate(gflop, ms),
            )
        )
    return stages


def layer_times(runs: Sequence[Sequence[LayerRun]], *, total_ms: float) -> list[LayerTime]:
    """Return every layer's median, the slowest first; one that is missing from a run took no time in it.

    Args:
        runs: the layers of every run.
        total_ms: of a whole detection.
    """
    by_name: dict[str, list[LayerRun]] = defaultdict(list)
    for run in runs:
        for layer in run:
            by_name[layer.name].append(layer)
    layers = []
    for name, same in by_name.items():
        ms = median([layer.ms for layer in same] + [0.0] * (len(runs) - len(same)))
        known = [layer.gflop for layer in same if layer.gflop is not None]
        gflop = median(known) if known else None
        layers.append(
            LayerTime(
                name=name,
                op=same[0].op,
                stage=same[0].stage,
                ms=ms,
                gflop=gflop,
                share=ms / total_ms if total_ms else 0.0,
                gflop_per_s=_rate(gflop, ms),
            )
        )
    return sorted(layers, key=lambda layer: (-layer.ms, layer.name))


def _rate(gflop: float | None, ms: float) -> float | None:
    return None if gflop is None or ms <= 0 else gflop / (ms / 1e3)
