"""Where the time of a model in ONNX Runtime goes, by stage of the network."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.exporter.deploy import DeployableFasterRCNN
from frcnn.spec import ModelSpec

__all__ = ["Stage", "sgemm_gflops_per_s", "stage_times"]

_STAGES: Final = ("backbone", "rpn/head", "rpn", "roi_heads/RoI pooling", "roi_heads/box head", "roi_heads")


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage.

    Attributes:
        name: the stage.
        ms: median time of a run in milliseconds.
        gflop: multiplications and additions of its convolutions and matrix products, in 10^9; 0 where it has none.
        of_sgemm: its rate as a share of the machine's sgemm rate.
    """

    name: str
    ms: float
    gflop: float
    of_sgemm: float


def stage_times(
    path: Path,
    feeds: Mapping[str, NDArray[np.generic]],
    model: GeneralizedRCNN,
    spec: ModelSpec,
    *,
    threads: int,
    sgemm: float,
    repeats: int = 3,
) -> list[Stage]:
    """Profile a model file.

    Args:
        path: the ``model.onnx``.
        feeds: its inputs.
        model: the torchvision model, for its operation counts.
        spec: its description.
        threads: processor threads.
        sgemm: the machine's rate in GFLOP/s, see ``sgemm_gflops_per_s``.
        repeats: runs, after one that warms up.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(repeats + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = _microseconds_by_run(events)[1:]
    flops = _gflop_by_stage(model, spec, feeds["images"].shape)
    stages = []
    for name in _STAGES:
        ms = float(np.median([run.get(name, 0.0) for run in runs])) / 1e3
        gflop = flops.get(name, 0.0)
        stages.append(Stage(name=name, ms=ms, gflop=gflop, of_sgemm=gflop / (ms / 1e3) / sgemm if ms else 0.0))
    return stages


def sgemm_gflops_per_s(threads: int, *, side: int = 2048, repeats: int = 5) -> float:
    """Return the rate of a float32 matrix product, the best of some, in 10^9 operations a second."""
    torch.set_num_threads(threads)
    a, b = torch.rand(side, side), torch.rand(side, side)
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def _microseconds_by_run(events: list[dict[str, object]]) -> list[dict[str, float]]:
    """Sum up kernel times by stage, one dictionary a run."""
    runs: list[dict[str, float]] = []
    kernels = sorted((e for e in events if str(e.get("name", "")).endswith("_kernel_time")), key=_start)
    borders = sorted(_start(e) for e in events if e.get("name") == "model_run")
    for border, following in zip(borders, [*borders[1:], float("inf")], strict=True):
        times: dict[str, float] = defaultdict(float)
        stage = _STAGES[0]
        for event in kernels:
            if border <= _start(event) < following:
                stage = _stage_of(str(event["name"])) or stage
                times[stage] += float(str(event["dur"]))
        runs.append(times)
    return runs


def _start(event: Mapping[str, object]) -> float:
    return float(str(event["ts"]))


def _stage_of(node: str) -> str | None:
    """Return the stage of a node by its name; None for one that ONNX Runtime made: it belongs to where it runs."""
    if node.startswith("roi_heads/Multiscale") or "RoiAlign" in node or "MaxRoiPool" in node:
        return "roi_heads/RoI pooling"
    if node.startswith(("roi_heads/box_head", "roi_heads/box_predictor")):
        return "roi_heads/box head"
    return next((stage for stage in _STAGES if node.startswith(f"{stage}/")), None)


def _gflop_by_stage(model: GeneralizedRCNN, spec: ModelSpec, shape: tuple[int, ...]) -> dict[str, float]:
    module = DeployableFasterRCNN(model, spec)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(shape), torch.tensor([shape[2:]] * shape[0], dtype=torch.int32))
    counts = {name: sum(by_op.values()) / 1e9 for name, by_op in counter.get_flop_counts().items()}
    root = type(module).__name__
    return {
        "backbone": counts.get(f"{root}.backbone", 0.0),
        "rpn/head": counts.get(f"{root}.rpn.head", 0.0),
        "roi_heads/box head": counts.get(f"{root}.roi_heads.box_head", 0.0)
        + counts.get(f"{root}.roi_heads.box_predictor", 0.0),
    }
