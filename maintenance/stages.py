"""Where the time of a model in ONNX Runtime goes, by stage of the network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import torch

from frcnn.benchmarks.profile.onnx_runs import Feeds, profiled_session
from frcnn.benchmarks.profile.stage_names import NetworkStage

__all__ = ["Stage", "sgemm_gflops_per_s", "stage_times"]

_STAGES: Final[Mapping[NetworkStage, str]] = {
    "backbone": "backbone",
    "FPN": "backbone",
    "RPN head": "rpn/head",
    "proposals": "rpn",
    "RoI pooling": "roi_heads/RoI pooling",
    "box head": "roi_heads/box head",
    "post": "roi_heads",
}
"""What the committed results call them."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage.

    Attributes:
        name: the stage.
        ms: median time of a run in milliseconds.
        gflop: multiplications and additions of its convolutions and matrix products, in 10^9; 0 where it has none.
        of_sgemm: its rate as a share of the system's sgemm rate.
    """

    name: str
    ms: float
    gflop: float
    of_sgemm: float


def stage_times(path: Path, feeds: Feeds, *, threads: int, sgemm: float, repeats: int = 3) -> list[Stage]:
    """Profile a model file.

    Args:
        path: the ``model.onnx``.
        feeds: its inputs.
        threads: processor threads.
        sgemm: the system's rate in GFLOP/s, see ``sgemm_gflops_per_s``.
        repeats: runs, after one that warms up.
    """
    with profiled_session(path, threads=threads) as session:
        for _ in range(repeats + 1):
            session.run(feeds)
        runs = session.finish()[1:]
    with profiled_session(path, threads=threads, as_written=True) as session:  # work as the file has it, unpadded
        session.run(feeds)
        (written,) = session.finish()
    stages = []
    for name in dict.fromkeys(_STAGES.values()):
        ms = median(sum(layer.ms for layer in run if _STAGES[layer.stage] == name) for run in runs)
        gflop = sum(layer.flops or 0.0 for layer in written if _STAGES[layer.stage] == name) / 1e9
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
