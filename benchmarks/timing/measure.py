"""Interleaved rounds within a budget of time.

A *series* is one candidate doing one thing; series that are compared with each other form a *group*. A round of a group
runs each series on the same images, in an order that rotates (A B C, B C A, ...), so that none is always first. Groups
share the budget by weight and take turns, so that drift of the system affects all alike.

ONNX Runtime's threads go on spinning for 40 ms after a call: run right after it, eager took 1.6 times as long, and
another ONNX Runtime session 1.9 times (2 cores, the demo's model). So a series waits before its turn, and where calls
are short it first makes an untimed one to warm the caches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from frcnn.benchmarks.candidates.candidate import Report, reason_of
from frcnn.benchmarks.report.results import Scope

Clock = Callable[[], float]
"""Seconds since some moment."""

Stopwatch = Callable[[Callable[[], object]], float]
"""Makes a call and returns how long it took, in milliseconds."""

_STABLE: Final = 0.1
_LAST: Final = 3
_GRACE: Final = 0.25


def wall_ms(call: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Time a call that is over when it returns, by a monotonic clock."""
    started = clock()
    call()
    return (clock() - started) * 1e3


def cuda_ms(call: Callable[[], object]) -> float:
    """Time what a call puts on PyTorch's current stream, waits of the host included, by two CUDA events."""
    import torch

    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


@dataclass(slots=True, kw_only=True, eq=False)
class Series:
    """One candidate doing one thing."""

    candidate: str  # its id
    windows: int  # how many different batches of images there are
    call: Callable[[int], Callable[[], object]]  # window -> what is timed; the same images for all of a group
    stopwatch: Stopwatch = wall_ms
    null: bool = False  # whether it is the second series of the null pair
    warm_up: int = 0  # untimed calls that were made
    rounds: list[list[float]] = field(default_factory=list)  # milliseconds, by round and call
    failure: str = ""  # why it was given up; empty while it runs

    @property
    def samples(self) -> list[float]:
        """Milliseconds of all calls."""
        return [ms for of_round in self.rounds for ms in of_round]


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Series that are compared with each other."""

    scope: Scope
    batch: int
    series: list[Series]
    weight: float = 1.0  # share of the budget, relative to other groups'
    required: bool = False  # whether it has at least one round, whatever that costs
    failure: str = ""  # why it was not measured at all; empty where it was
    spent_s: float = 0.0  # time spent on its rounds
    rounds: int = 0  # how many are done
    calls: int = 1  # timed ones of each series in a round
    lead_in: bool = False  # whether an untimed call comes before them

    @property
    def alive(self) -> list[Series]:
        """The series that still run."""
        return [series for series in self.series if not series.failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, and how often."""

    budget_s: float  # for warm-up and rounds together
    min_rounds: int = 3  # a group that cannot have so many within the budget is not measured
    max_rounds: int = 50  # of a group
    round_ms: float = 60.0  # a series' share of a round is filled up with calls to at least about this
    max_calls: int = 16  # of a series in a round
    max_warm_up: int = 6  # untimed calls of a candidate; fewer where the last three agree within 10 %
    warm_up_share: float = 0.2  # of the budget, after which a candidate gets no more than two calls to warm up
    settle_s: float = 0.06  # wait before a series' turn, for the threads of the one before it to come to rest
    lead_in_ms: float = 500.0  # a turn begins with an untimed call where no call of the group takes as long as this


def measure_groups(
    groups: Sequence[Group],
    limits: Limits,
    *,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    report: Report = lambda what, share: None,
) -> None:
    """Warm up all series, then run rounds until the budget is spent; the series hold what was measured so far.

    The first series of a candidate is warmed up until it is steady, its others by one call each. A series that fails
    is given up with its reason. An interrupt leaves whole rounds only. Groups that are required come first; of the
    others the largest batches are left out first.
    """
    started = clock()
    deadline = started + limits.budget_s

    def tell(what: str) -> None:
        report(what, min(1.0, (clock() - started) / limits.budget_s))

    call_ms: dict[int, float] = {}
    by_image: dict[str, float] = {}
    for group in groups:
        for series in group.series:
            if series.candidate not in by_image:
                tell(f"warming up {series.candidate}")
                until = started + limits.budget_s * limits.warm_up_share
                by_image[series.candidate] = _warm_up(series, limits.max_warm_up, clock, until) / group.batch
            call_ms[id(series)] = by_image[series.candidate] * group.batch
    _leave_out_the_slow(groups, call_ms, limits, deadline - clock())
    for group in (g for g in groups if not g.failure):
        for series in (s for s in group.alive if not s.warm_up and not s.null):
            tell(f"warming up {series.candidate}, batch {group.batch}")
            call_ms[id(series)] = _warm_up(series, 1, clock, deadline)
    for group in groups:
        _plan_turns(group, call_ms, limits)
    while (chosen := _next(groups, limits, deadline, clock())) is not None:
        tell(f"{chosen.scope}, batch {chosen.batch}, round {chosen.rounds + 1}")
        _round(chosen, clock, settle=lambda: sleep(limits.settle_s))
    for group in groups:
        if not group.failure and not group.rounds:
            group.failure = "the time budget was spent before its first round"


def _next(groups: Sequence[Group], limits: Limits, deadline: float, now: float) -> Group | None:
    """Return whose turn it is: of those that have too few rounds, then of those whose next round is over in time."""
    waiting = [g for g in groups if not g.failure and g.alive and g.rounds < limits.max_rounds]
    short = [g for g in waiting if g.rounds < limits.min_rounds]
    if now > deadline + limits.budget_s * _GRACE:  # the system became slower than in the warm-up
        short = [g for g in short if g.required and not g.rounds]
    due = short or [g for g in waiting if g.rounds and g.spent_s / g.rounds <= deadline - now]
    return min(due, key=lambda g: g.spent_s / g.weight, default=None)


def _warm_up(series: Series, max_calls: int, clock: Clock, until: float) -> float:
    """Call a series until it is steady, or so many times; return milliseconds of a call, infinite where it fails."""
    times: list[float] = []
    try:
        while len(times) < max_calls:
            times.append(series.stopwatch(series.call(len(times) % series.windows)))
            series.warm_up = len(times)
            last = times[-_LAST:]
            if len(last) == _LAST and max(last) <= min(last) * (1 + _STABLE):
                break
            if len(times) >= 2 and clock() >= until:
                break
    except Exception as error:  # whatever a backend raises costs that backend its series, and no other
        series.failure = reason_of(error)
        return math.inf
    return min(times[-_LAST:])


def _leave_out_the_slow(groups: Sequence[Group], call_ms: dict[int, float], limits: Limits, left_s: float) -> None:
    """Give up groups whose fewest rounds do not fit into the time: large batches first, the network before images."""
    cost = {id(group): limits.min_rounds * _plan_turns(group, call_ms, limits) for group in groups if group.alive}
    removable = [group for group in groups if id(group) in cost and not group.required]
    for group in sorted(removable, key=lambda g: (g.batch, g.scope == "network", cost[id(g)]), reverse=True):
        if sum(cost.values()) <= left_s:
            return
        needed = cost.pop(id(group))
        group.failure = f"{limits.min_rounds} rounds would take {needed:.3g} s, more than the time that is left"


def _plan_turns(group: Group, call_ms: dict[int, float], limits: Limits) -> float:
    """Set how often the series of a group are called in a round; return how many seconds a round takes.

    All make as many calls as the quickest needs, after an untimed one where all are short.
    """
    times = [call_ms[id(series)] for series in group.alive]
    wanted = math.ceil(limits.round_ms / max(min(times, default=math.inf), 1e-6))
    group.calls = max(1, min(wanted, limits.max_calls))
    group.lead_in = max(times, default=math.inf) < limits.lead_in_ms
    return len(times) * limits.settle_s + (group.calls + group.lead_in) * sum(times) / 1e3


def _round(group: Group, clock: Clock, *, settle: Callable[[], None]) -> None:
    started = clock()
    first = group.rounds * group.calls
    alive = group.alive
    begin = group.rounds % len(alive)
    done: dict[int, list[float]] = {}
    for series in (*alive[begin:], *alive[:begin]):
        settle()
        try:
            if group.lead_in:
                series.call(first % series.windows)()
            windows = [(first + i) % series.windows for i in range(group.calls)]
            done[id(series)] = [series.stopwatch(series.call(window)) for window in windows]
        except Exception as error:
            series.failure = reason_of(error)
    for series in alive:  # only now: an interrupt within a round leaves no half of it
        if id(series) in done:
            series.rounds.append(done[id(series)])
    group.rounds += 1
    group.spent_s += clock() - started
