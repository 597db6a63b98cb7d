"""Time short GPU work: many launches in one CUDA graph, warm and cold caches, interleaved rounds.

Cold means that a buffer of twice the L2 is read before each launch; the time of the reads alone, measured in the same
round, is taken off. It is read, not written: lines that were written must leave the L2 while the launch runs, and
their bytes would be charged to it. What cannot be captured (PyTorch code that waits for results) is timed call by call
between two events, its waits included, because whoever calls it waits, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final, Literal, Protocol

import torch

Cache = Literal["warm", "cold"]
_WARM_UP: Final = 3
_ROUND_US: Final = 5000.0  # of calls that no graph holds; slow ones are called less often, but once


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One implementation of the work.

    Attributes:
        name: which.
        run: does it once, on PyTorch's current stream.
        capturable: whether a CUDA graph can hold it.
    """

    name: str
    run: Callable[[], object]
    capturable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartiles:
    """Quartiles of the rounds, and their extremes."""

    min: float
    low: float
    median: float
    high: float
    max: float
    rounds: int


class Timer(Protocol):
    """Prepares measurements."""

    def prepare(self, implementation: Implementation, cache: Cache) -> Callable[[], float]:
        """Return a function that measures the implementation once and returns microseconds a call."""


class CudaTimer:
    """Measures on the current CUDA device.

    Args:
        launches: in a graph, or calls a round at most.
    """

    def __init__(self, launches: int) -> None:
        self._launches = launches
        l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._flushed = torch.zeros(2 * l2_bytes // 4, device="cuda")
        self._sum = torch.zeros((), device="cuda")
        self._flush()  # loads its kernel, which a capture could not

    def prepare(self, implementation: Implementation, cache: Cache) -> Callable[[], float]:
        """Return a function that measures the implementation once, in microseconds a call."""
        for _ in range(_WARM_UP):
            implementation.run()
        torch.cuda.synchronize()
        if not implementation.capturable:
            calls = max(1, min(self._launches, int(_ROUND_US / self._calls(implementation.run, cache, 1))))
            return lambda: self._calls(implementation.run, cache, calls)
        flush = (self._flush,) if cache == "cold" else ()
        work = self._graph(*flush, implementation.run)
        if not flush:
            return lambda: self._replay(work)
        alone = self._graph(self._flush)
        return lambda: self._replay(work) - self._replay(alone)

    def _flush(self) -> None:
        torch.sum(self._flushed, 0, out=self._sum)

    def _graph(self, *steps: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self._launches):
                for step in steps:
                    step()
        graph.replay()
        torch.cuda.synchronize()
        return graph

    def _replay(self, graph: torch.cuda.CUDAGraph) -> float:
        start, end = _events()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / self._launches

    def _calls(self, run: Callable[[], object], cache: Cache, calls: int) -> float:
        spans = [_events() for _ in range(calls)]
        for start, end in spans:
            if cache == "cold":
                self._flush()
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return float(median(start.elapsed_time(end) for start, end in spans)) * 1e3


def _events() -> tuple[Any, Any]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def interleaved(
    implementations: Sequence[Implementation], timer: Timer, cache: Cache, rounds: int
) -> dict[str, list[float]]:
    """Measure every implementation once a round, the order rotated by one each round; return microseconds by name."""
    measures = {item.name: timer.prepare(item, cache) for item in implementations}
    times: dict[str, list[float]] = {name: [] for name in measures}
    order = list(measures)
    for _ in range(rounds):
        for name in order:
            times[name].append(measures[name]())
        order = [*order[1:], order[0]]
    return times


def quartiles_of(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of at least two values."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Quartiles(min=min(values), low=low, median=middle, high=high, max=max(values), rounds=len(values))


def ratios(times: Mapping[str, Sequence[float]], of: str, to: str) -> Quartiles:
    """Return how many times as long ``of`` takes as ``to``, within rounds."""
    return quartiles_of([theirs / ours for theirs, ours in zip(times[of], times[to], strict=True)])
