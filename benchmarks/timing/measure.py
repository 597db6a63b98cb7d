"""Interleaved rounds within a budget of time.

A *lane* is one row doing one thing: images to boxes, or the network only, at one batch size. Lanes that are compared
with each other form a *group*. A round of a group runs each of its lanes on the same images, in an order that turns
by one from round to round (A B C, B C A, ...), so that no lane is always first. Groups share the budget by weight, and
take turns, so that drift of the system hits all alike.

Rows share processors, and their threads do not rest when a call returns: ONNX Runtime's go on spinning for 40 ms. Run
right after it, eager took 1.6 times its usual time, and another ONNX Runtime session 1.9 times (2 cores, the demo's
model). So before its turn a lane waits, and where calls are short it makes one untimed call, for caches to be its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from frcnn.benchmarks.candidates.unavailable import reason_of
from frcnn.benchmarks.report.results import Scope

__all__ = ["Clock", "Group", "Lane", "Limits", "Stopwatch", "WallStopwatch", "measure_groups"]

Clock = Callable[[], float]
"""Seconds since some moment."""

_STABLE: Final = 0.1
_LAST: Final = 3
_GRACE: Final = 0.25


class Stopwatch(Protocol):
    """Times one call."""

    def ms(self, call: Callable[[], object]) -> float:
        """Make the call and return how long it took, in milliseconds."""
        ...


class WallStopwatch:
    """Times a call that is over when it returns.

    Args:
        clock: a monotonic clock.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock

    def ms(self, call: Callable[[], object]) -> float:
        """Make the call and return how long it took, in milliseconds."""
        started = self._clock()
        call()
        return (self._clock() - started) * 1e3


@dataclass(slots=True, kw_only=True, eq=False)
class Lane:
    """One row doing one thing.

    Attributes:
        row: id of the row.
        windows: how many different batches of images there are.
        call: takes the index of a window, the same images for all lanes of a group, and returns what is timed; making
            it ready is not.
        stopwatch: times a call.
        null: whether it is the second lane of the null pair.
        warm_up: untimed calls that were made.
        rounds: milliseconds, by round and call.
        failure: why it was given up; empty while it runs.
    """

    row: str
    windows: int
    call: Callable[[int], Callable[[], object]]
    stopwatch: Stopwatch
    null: bool = False
    warm_up: int = 0
    rounds: list[list[float]] = field(default_factory=list)
    failure: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """Lanes that are compared with each other.

    Attributes:
        scope: what a call does.
        batch: images in a call.
        lanes: those that are measured.
        weight: share of the budget, relative to other groups'.
        required: whether it has at least one round, whatever that costs.
        failure: why it was not measured at all; empty where it was.
        spent_s: time spent on its rounds.
        rounds: how many are done.
    """

    scope: Scope
    batch: int
    lanes: list[Lane]
    weight: float = 1.0
    required: bool = False
    failure: str = ""
    spent_s: float = 0.0
    rounds: int = 0

    @property
    def alive(self) -> list[Lane]:
        """The lanes that still run."""
        return [lane for lane in self.lanes if not lane.failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, and how often.

    Attributes:
        budget_s: for warm-up and rounds together.
        min_rounds: a group that cannot have so many within the budget is not measured.
        max_rounds: a group that has so many is done.
        round_ms: a lane's share of a round is filled up with calls to at least about this, while images last.
        max_calls: of a lane in a round.
        max_warm_up: untimed calls of a row; fewer where the last three agree within 10 %.
        warm_up_share: of the budget, after which a row gets no more than two calls to warm up.
        settle_s: wait before a lane's turn, for the threads of the lane before it to come to rest.
        lead_in_ms: a turn begins with an untimed call where none of the group's lanes takes this long for one.
    """

    budget_s: float
    min_rounds: int = 3
    max_rounds: int = 50
    round_ms: float = 60.0
    max_calls: int = 16
    max_warm_up: int = 6
    warm_up_share: float = 0.2
    settle_s: float = 0.06
    lead_in_ms: float = 500.0


Report = Callable[[float, str], None]
"""Takes the share of the budget that is spent, 0 to 1, and what goes on."""


def measure_groups(
    groups: Sequence[Group],
    limits: Limits,
    *,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    report: Report = lambda share, what: None,
) -> None:
    """Warm up all lanes, then run rounds until the budget is spent. What was measured is in the lanes at any moment.

    The first lane of a row is warmed up until it is steady, its others by one call each. A lane that fails is given up
    with its reason. An interrupt leaves whole rounds only.

    Args:
        groups: those that are required come first; of the others the largest batches are left out first.
        limits: how long, and how often.
        clock: seconds.
        sleep: waits, in seconds of the clock.
        report: told before every lane and round.
    """
    started = clock()
    deadline = started + limits.budget_s
    call_ms = _warm_up_rows(groups, limits, clock, started + limits.budget_s * limits.warm_up_share, report)
    _leave_out_the_slow(groups, call_ms, limits, deadline - clock())
    for group in (g for g in groups if not g.failure):
        for lane in (lane for lane in group.alive if not lane.warm_up and not lane.null):
            report(_share(started, limits, clock), f"warming up {lane.row}, batch {group.batch}")
            call_ms[id(lane)] = _warm_up(lane, 1, clock, deadline)
    turns = {id(group): _turn(group, call_ms, limits) for group in groups}
    while (chosen := _next(groups, limits, deadline, clock())) is not None:
        report(_share(started, limits, clock), f"{chosen.scope}, batch {chosen.batch}, round {chosen.rounds + 1}")
        _round(chosen, turns[id(chosen)], clock, settle=lambda: sleep(limits.settle_s))
    for group in groups:
        if not group.failure and not group.rounds:
            group.failure = "the time budget was spent before its first round"


def _share(started: float, limits: Limits, clock: Clock) -> float:
    return min(1.0, (clock() - started) / limits.budget_s)


def _warm_up_rows(
    groups: Sequence[Group], limits: Limits, clock: Clock, until: float, report: Report
) -> dict[int, float]:
    """Warm up the first lane of each row; return milliseconds of a call of every lane, estimated for the others."""
    by_image: dict[str, float] = {}
    call_ms: dict[int, float] = {}
    for group in groups:
        for lane in group.lanes:
            if lane.row not in by_image:
                report(0.0, f"warming up {lane.row}")
                by_image[lane.row] = _warm_up(lane, limits.max_warm_up, clock, until) / group.batch
            call_ms[id(lane)] = by_image[lane.row] * group.batch
    return call_ms


def _next(groups: Sequence[Group], limits: Limits, deadline: float, now: float) -> Group | None:
    """Return whose turn it is: of those that have too few rounds, then of those whose next round is over in time."""
    waiting = [g for g in groups if not g.failure and g.alive and g.rounds < limits.max_rounds]
    short = [g for g in waiting if g.rounds < limits.min_rounds]
    if now > deadline + limits.budget_s * _GRACE:  # the system became slower than the warm-up promised
        short = [g for g in short if g.required and not g.rounds]
    due = short or [g for g in waiting if g.rounds and g.spent_s / g.rounds <= deadline - now]
    return min(due, key=lambda g: g.spent_s / g.weight, default=None)


def _warm_up(lane: Lane, maximum: int, clock: Clock, until: float) -> float:
    """Call a lane until it is steady, or so many times; return milliseconds of a call, infinite where it fails."""
    times: list[float] = []
    try:
        while len(times) < maximum:
            times.append(lane.stopwatch.ms(lane.call(len(times) % lane.windows)))
            lane.warm_up = len(times)
            last = times[-_LAST:]
            if len(last) == _LAST and max(last) <= min(last) * (1 + _STABLE):
                break
            if len(times) >= 2 and clock() >= until:
                break
    except Exception as error:  # whatever a backend raises costs that backend its lane, and no other
        lane.failure = reason_of(error)
        return math.inf
    return min(times[-_LAST:])


def _leave_out_the_slow(groups: Sequence[Group], call_ms: dict[int, float], limits: Limits, left_s: float) -> None:
    """Give up groups whose least rounds do not fit into the time: large batches first, the network before images."""
    cost = {id(group): limits.min_rounds * _turn(group, call_ms, limits).round_s for group in groups if group.alive}
    removable = [group for group in groups if id(group) in cost and not group.required]
    for group in sorted(removable, key=lambda g: (g.batch, g.scope == "network", cost[id(g)]), reverse=True):
        if sum(cost.values()) <= left_s:
            return
        needed = cost.pop(id(group))
        group.failure = f"{limits.min_rounds} rounds would take {needed:.3g} s, more than the time that is left"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What a lane does in a round.

    Attributes:
        calls: timed ones; the same for all lanes, enough for the quickest to be measurable.
        lead_in: whether an untimed one comes first.
        round_s: how long a round of the whole group takes.
    """

    calls: int
    lead_in: bool
    round_s: float


def _turn(group: Group, call_ms: dict[int, float], limits: Limits) -> _Turn:
    times = [call_ms[id(lane)] for lane in group.alive]
    wanted = math.ceil(limits.round_ms / max(min(times, default=math.inf), 1e-6))
    calls = max(1, min(wanted, limits.max_calls))
    lead_in = max(times, default=math.inf) < limits.lead_in_ms
    round_s = len(times) * limits.settle_s + (calls + lead_in) * sum(times) / 1e3
    return _Turn(calls=calls, lead_in=lead_in, round_s=round_s)


def _round(group: Group, turn: _Turn, clock: Clock, *, settle: Callable[[], None]) -> None:
    started = clock()
    first = group.rounds * turn.calls
    lanes = group.alive
    begin = group.rounds % len(lanes)
    done: dict[int, list[float]] = {}
    for lane in (*lanes[begin:], *lanes[:begin]):
        settle()
        try:
            if turn.lead_in:
                lane.call(first % lane.windows)()
            done[id(lane)] = [lane.stopwatch.ms(lane.call((first + i) % lane.windows)) for i in range(turn.calls)]
        except Exception as error:
            lane.failure = reason_of(error)
    for lane in lanes:  # only now: an interrupt within a round leaves no half of it
        if id(lane) in done:
            lane.rounds.append(done[id(lane)])
    group.rounds += 1
    group.spent_s += clock() - started
