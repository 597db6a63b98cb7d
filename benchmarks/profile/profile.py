"""``profile.json``: the time of each stage and each layer of a detection, and how it was measured.

Times are milliseconds of one batch. Every number was measured in the run that wrote it; what was not is None.

A layer's stage is found by its name. The exporter names nodes after torchvision's modules (``backbone/body/...``,
``rpn/head/...``), and runtimes keep those names in what they fuse and rearrange. Nodes that a runtime adds, and those
of the operators' function bodies, have no such name: they belong to the stage that they run in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal, get_args

from frcnn.benchmarks.report.results import Environment
from frcnn.spec import Record, Size

SCHEMA_VERSION: Final = 1

NetworkStage = Literal["backbone", "FPN", "RPN head", "proposals", "RoI pooling", "box head", "post"]
StageName = Literal["decode", "preprocess", "copies", "between layers"] | NetworkStage
STAGES: Final[tuple[StageName, ...]] = ("decode", "copies", "preprocess", *get_args(NetworkStage), "between layers")
"""In the order that data flows. ``copies`` are those between host and GPU; ``between layers`` is the network's time
beyond the sum of its layers."""

_PATTERNS: Final[Mapping[NetworkStage, str]] = {
    "RoI pooling": r"roi_heads[/.]Multiscale|RoiAlign|MaxRoiPool|MultiscaleRoI",
    "box head": r"roi_heads[/.]box_(?:head|predictor)",
    "post": r"roi_heads[/.]",
    "RPN head": r"rpn[/.]head",
    "proposals": r"rpn[/.]",
    "FPN": r"backbone[/.]fpn",
    "backbone": r"backbone[/.]",
}
_COMPILED: Final = {stage: re.compile(rf"(?:^|[^A-Za-z0-9.])(?:{text})") for stage, text in _PATTERNS.items()}

_SEARCH: Final = re.compile("TopK|NonMaxSuppression")
_BODY_AFTER: Final[Mapping[NetworkStage, NetworkStage]] = {"RPN head": "proposals", "box head": "post"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """A layer in one run."""

    name: str  # unique in the network, the same in every run
    op: str  # its operator or kernel; empty where the runtime does not report it
    stage: NetworkStage
    ms: float
    flops: float | None = None  # multiplications and additions of a convolution or matrix product
    bytes: float = 0.0  # of its inputs and outputs, each once, in ONNX Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The times of a model file, run by run; see ``Profile``."""

    device: str
    runs: Sequence[Sequence[LayerRun]]  # the layers of every run
    more: Mapping[StageName, Sequence[float]]  # milliseconds by run of what is no layer, such as decoding
    network_ms: float
    profiled_ms: float


class LayerTime(Record, frozen=True, kw_only=True):
    """A layer over all runs; in ONNX Runtime and TensorRT it may be several nodes of the file."""

    name: str
    op: str
    stage: NetworkStage
    ms: float  # the median
    gflop: float | None = None  # 10^9 multiplications and additions as they ran, padded channels among them
    share: float  # of a whole detection, 0 to 1
    gflop_per_s: float | None


class StageTime(Record, frozen=True, kw_only=True):
    """A stage over all runs."""

    name: StageName
    ms: float  # the median of its runs' sums
    share: float  # of a whole detection, 0 to 1; all stages together have 1
    layers: int
    gflop: float | None  # of its layers whose work is known
    gflop_per_s: float | None  # their work by the time of all its layers


class Profile(Record, frozen=True, kw_only=True):
    """Where the time goes.

    ``network_ms`` and ``profiled_ms`` are medians of runs without and with a profiler: in ONNX Runtime the network, by
    the clock; in an artifact everything from the upload of sizes to the download of detections, as one CUDA graph.
    """

    schema_version: int
    environment: Environment
    model: str  # the file
    sha256: str  # its digest
    architecture: str
    runtime: str  # "onnxruntime", or an artifact's target
    device: str
    precision: str  # of the heavy layers
    batch: int  # images at a time; all times are of a batch
    canvas: Size
    source: str  # of the images: "given", or a sentence about those that frcnn brings along
    images: tuple[str, ...]  # names of those that were detected in
    repeats: int  # runs that were measured, after one that warmed up
    total_ms: float  # all stages together
    network_ms: float
    profiled_ms: float
    stages: tuple[StageTime, ...]  # in the order that data flows
    layers: tuple[LayerTime, ...]  # the slowest first


def stage_of(name: str) -> NetworkStage | None:
    """Return the stage that a layer's name matches, the first of the patterns' order if several; None if none."""
    return next((stage for stage, pattern in _COMPILED.items() if pattern.search(name)), None)


def stages_in_order(names: Sequence[str]) -> list[NetworkStage]:
    """Return the stage of every layer of a run, in the order in which they ran.

    A layer whose name matches none belongs to the stage before it. The bodies of the operators have no names: those of
    proposals and detections come after a network and are known by their TopK and NonMaxSuppression. From the last of
    these to the box head all is RoI pooling, whose body sorts RoIs by level before it pools and puts the results back
    in order after.
    """
    matched = [stage_of(name) for name in names]
    is_search = [stage is None and bool(_SEARCH.match(name)) for stage, name in zip(matched, names, strict=True)]
    stages: list[NetworkStage] = []
    current: NetworkStage = "backbone"
    for index, stage in enumerate(matched):
        known = (i for i in range(index, len(names)) if matched[i] is not None or is_search[i])
        following = next(known, None)
        if stage is not None:
            current = stage
        elif following is not None and is_search[following]:
            current = _BODY_AFTER.get(current, current)
        elif following is not None and current == "proposals" and matched[following] in ("RoI pooling", "box head"):
            current = "RoI pooling"
        stages.append(current)
    return stages


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
        gflop, rate = _work([[layer.flops for layer in run] for run in layers], ms)
        count = max(map(len, layers))
        stages.append(StageTime(name=stage, ms=ms, share=ms / total, layers=count, gflop=gflop, gflop_per_s=rate))
    return stages


def layer_times(runs: Sequence[Sequence[LayerRun]], *, total_ms: float) -> list[LayerTime]:
    """Return every layer's median, the slowest first; one that is missing from a run took no time in it."""
    by_name: dict[str, list[LayerRun]] = defaultdict(list)
    for run in runs:
        for layer in run:
            by_name[layer.name].append(layer)
    layers = []
    for name, same in by_name.items():
        ms = median([layer.ms for layer in same] + [0.0] * (len(runs) - len(same)))
        gflop, rate = _work([[layer.flops] for layer in same], ms)
        share = ms / total_ms if total_ms else 0.0
        first = same[0]
        layers.append(
            LayerTime(name=name, op=first.op, stage=first.stage, ms=ms, gflop=gflop, share=share, gflop_per_s=rate)
        )
    return sorted(layers, key=lambda layer: (-layer.ms, layer.name))


def _work(flops: Iterable[Sequence[float | None]], ms: float) -> tuple[float | None, float | None]:
    """Return GFLOP, the median of the runs' sums over what is known, and GFLOP/s; None where nothing is known."""
    known = [[value for value in run if value is not None] for run in flops]
    if not any(known):
        return None, None
    gflop = median(sum(run) for run in known if run) / 1e9
    return gflop, gflop / (ms / 1e3) if ms > 0 else None
