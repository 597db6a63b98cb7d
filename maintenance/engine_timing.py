"""Time whole detections on a GPU: call by call, all ways in turn, percentiles of each.

A call is timed twice: by two CUDA events on the stream (what the GPU was busy or waiting for) and by the clock, from
the call to the answer (what a caller waits for).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final, Protocol

import torch

__all__ = ["CallTimer", "Calls", "CudaCallTimer", "Percentiles", "Way", "in_turn", "percentiles", "times_faster"]

_WARM_UP: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of all calls, in milliseconds."""

    p50: float
    p90: float
    p99: float
    min: float
    max: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How long calls took, in milliseconds, one entry a call.

    Attributes:
        gpu_ms: between two events on the stream, the second behind all that the call put there.
        wall_ms: by the clock, until the call's work is done.
    """

    gpu_ms: list[float]
    wall_ms: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to detect.

    Attributes:
        name: which.
        run: does it once.
        stream: a ``torch.cuda.Stream`` that the work is on, or waits for it; None: PyTorch's current one.
    """

    name: str
    run: Callable[[], object]
    stream: Any = None


class CallTimer(Protocol):
    """Measures."""

    def __call__(self, way: Way, calls: int) -> Calls:
        """Run a way so many times."""


class CudaCallTimer:
    """Measures on the current CUDA device; every call begins on an idle GPU."""

    def __call__(self, way: Way, calls: int) -> Calls:
        """Run a way so many times."""
        stream = torch.cuda.current_stream() if way.stream is None else way.stream
        gpu_ms, wall_ms = [], []
        for _ in range(calls):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            began = time.perf_counter()
            start.record(stream)
            way.run()
            end.record(stream)
            end.synchronize()
            wall_ms.append((time.perf_counter() - began) * 1e3)
            gpu_ms.append(float(start.elapsed_time(end)))
        return Calls(gpu_ms=gpu_ms, wall_ms=wall_ms)


def in_turn(ways: Sequence[Way], timer: CallTimer, *, rounds: int, calls: int) -> dict[str, Calls]:
    """Measure every way once a round, the order turned by one each round, after a warm-up of each.

    Args:
        ways: of different names.
        timer: measures.
        rounds: how many; drift of the system hits all ways alike.
        calls: of each way in a round.

    Returns:
        All calls by way.
    """
    for way in ways:
        timer(way, _WARM_UP)
    found = {way.name: Calls(gpu_ms=[], wall_ms=[]) for way in ways}
    order = list(ways)
    for _ in range(rounds):
        for way in order:
            measured = timer(way, calls)
            found[way.name].gpu_ms.extend(measured.gpu_ms)
            found[way.name].wall_ms.extend(measured.wall_ms)
        order = [*order[1:], order[0]]
    return found


def percentiles(values: Sequence[float]) -> Percentiles:
    """Return the percentiles of at least two values."""
    hundredths = quantiles(values, n=100, method="inclusive")
    return Percentiles(
        p50=hundredths[49],
        p90=hundredths[89],
        p99=hundredths[98],
        min=min(values),
        max=max(values),
        calls=len(values),
    )


def times_faster(found: Mapping[str, Calls], of: str, to: str) -> float:
    """Return the median time by the clock of ``of`` / that of ``to``."""
    return percentiles(found[of].wall_ms).p50 / percentiles(found[to].wall_ms).p50
