"""Rounds: their order, their budget, what a failure and an interrupt leave."""

from __future__ import annotations

import time
from functools import partial

import pytest
from support.fake_rows import FakeClock

from frcnn.benchmarks.timing.measure import Group, Limits, Series, measure_groups, wall_ms


def plain(**changes: float) -> Limits:
    """Return limits without pauses and lead-ins."""
    return Limits(**({"settle_s": 0.0, "lead_in_ms": 0.0, "round_ms": 20.0} | changes))  # type: ignore[arg-type]


def a_series(clock: FakeClock, name: str, ms: float, *, windows: int = 4, fails_at: int | None = None) -> Series:
    made = 0

    def call(window: int):
        def run() -> None:
            nonlocal made
            made += 1
            if made == fails_at:
                raise RuntimeError("broke")
            clock.wait(f"{name}{window}", ms)

        return run

    return Series(candidate=name, windows=windows, call=call, stopwatch=partial(wall_ms, clock=clock))


def group(series: list[Series], batch: int = 1, scope: str = "images", weight: float = 1.0, required=False) -> Group:
    return Group(scope=scope, batch=batch, series=series, weight=weight, required=required)


def rounds_of(clock: FakeClock, series: int, warm_up: int) -> list[list[str]]:
    timed = clock.log[warm_up:]
    return [timed[i : i + series] for i in range(0, len(timed), series)]


def test_rounds_rotate_and_all_series_of_a_round_get_the_same_images() -> None:
    clock = FakeClock()
    series = [a_series(clock, name, 100) for name in "abc"]
    measure_groups([group(series)], plain(budget_s=60, max_rounds=5), clock=clock, sleep=clock.sleep)
    warm_up = sum(item.warm_up for item in series)
    assert rounds_of(clock, 3, warm_up) == [
        ["a0", "b0", "c0"],
        ["b1", "c1", "a1"],
        ["c2", "a2", "b2"],
        ["a3", "b3", "c3"],
        ["b0", "c0", "a0"],
    ]


def test_samples_are_exactly_the_delays() -> None:
    clock = FakeClock()
    series = [a_series(clock, "a", 100), a_series(clock, "b", 30)]
    measure_groups([group(series)], plain(budget_s=60, max_rounds=4), clock=clock, sleep=clock.sleep)
    assert [ms for of_round in series[0].rounds for ms in of_round] == pytest.approx([100] * 4)
    assert [ms for of_round in series[1].rounds for ms in of_round] == pytest.approx([30] * 4)


def test_all_series_of_a_group_make_as_many_calls_as_the_quickest_needs() -> None:
    clock = FakeClock()
    series = [a_series(clock, "a", 10), a_series(clock, "b", 4)]
    measure_groups([group(series)], plain(budget_s=60, max_rounds=2, round_ms=20), clock=clock, sleep=clock.sleep)
    assert [[len(of_round) for of_round in item.rounds] for item in series] == [[5, 5], [5, 5]]


def test_before_its_turn_a_series_waits_and_makes_an_untimed_call() -> None:
    clock = FakeClock()
    cold = {"a": 0, "b": 0}

    def slow_at_first(name: str) -> Series:
        def run() -> None:
            settled = clock.now - last["at"] >= 0.05
            first = last["who"] != name
            clock.wait(name, 10 + 30 * first + 500 * (first and not settled))
            cold[name] += first
            last.update(who=name, at=clock.now)

        return Series(candidate=name, windows=1, call=lambda _: run, stopwatch=partial(wall_ms, clock=clock))

    last = {"who": "", "at": 0.0}
    series = [slow_at_first("a"), slow_at_first("b")]
    measure_groups([group(series)], Limits(budget_s=60, max_rounds=4, round_ms=20), clock=clock, sleep=clock.sleep)
    assert [ms for item in series for of_round in item.rounds for ms in of_round] == pytest.approx([10.0] * 2 * 4 * 2)
    assert min(cold.values()) >= 3  # each was the first one after the other


def test_long_calls_have_no_lead_in() -> None:
    clock = FakeClock()
    series = [a_series(clock, "a", 100), a_series(clock, "b", 600)]
    measure_groups([group(series)], Limits(budget_s=60, max_rounds=4), clock=clock, sleep=clock.sleep)
    assert len(clock.log) == sum(item.warm_up + 4 for item in series)


def test_warming_up_ends_when_a_series_is_steady() -> None:
    clock = FakeClock()
    times = iter([900, 300, 101, 100, 102, 100, 100, 100])
    settling = Series(
        candidate="a",
        windows=1,
        call=lambda _: lambda: clock.wait("a", next(times)),
        stopwatch=partial(wall_ms, clock=clock),
    )
    measure_groups([group([settling])], plain(budget_s=60, max_rounds=2, max_warm_up=8), clock=clock, sleep=clock.sleep)
    assert settling.warm_up == 5
    assert settling.rounds == [[pytest.approx(100)], [pytest.approx(100)]]


def test_the_budget_holds_and_is_shared_by_weight() -> None:
    clock = FakeClock()
    groups = [
        group([a_series(clock, "a", 100), a_series(clock, "b", 100)], weight=3),
        group([a_series(clock, "a", 100), a_series(clock, "b", 100)], scope="network"),
    ]
    measure_groups(groups, plain(budget_s=20, max_rounds=1000), clock=clock, sleep=clock.sleep)
    assert 19.5 <= clock.now <= 20
    assert groups[0].spent_s / groups[1].spent_s == pytest.approx(3, rel=0.1)


def test_groups_that_do_not_fit_are_left_out_the_largest_batch_first() -> None:
    clock = FakeClock()
    groups = [
        group([a_series(clock, "a", 1000 * batch)], batch=batch, scope=scope)
        for batch in (1, 2, 8)
        for scope in ("images", "network")
    ]
    measure_groups(groups, plain(budget_s=20), clock=clock, sleep=clock.sleep)
    assert [(g.batch, g.scope) for g in groups if not g.failure] == [(1, "images"), (1, "network"), (2, "images")]
    assert "3 rounds would take 24 s" in groups[-1].failure
    assert all(g.rounds >= 3 for g in groups if not g.failure)
    assert clock.now <= 20


def test_a_required_group_is_measured_however_short_the_time_is() -> None:
    clock = FakeClock()
    groups = [group([a_series(clock, "a", 10_000)], required=True), group([a_series(clock, "a", 10)], scope="network")]
    measure_groups(groups, plain(budget_s=1), clock=clock, sleep=clock.sleep)
    assert groups[0].rounds == 1 and not groups[0].failure
    assert groups[1].rounds == 0 and groups[1].failure


def test_the_run_ends_soon_on_a_system_that_becomes_slow() -> None:
    clock = FakeClock()
    made = 0

    def call(_window: int):
        def run() -> None:
            nonlocal made
            made += 1
            clock.wait("a", 100 if made < 9 else 20_000)

        return run

    series = [Series(candidate="a", windows=1, call=call, stopwatch=partial(wall_ms, clock=clock))]
    groups = [group(series, required=True), group([a_series(clock, "b", 100)], scope="network")]
    measure_groups(groups, plain(budget_s=10, min_rounds=20), clock=clock, sleep=clock.sleep)
    assert groups[0].rounds < 20 and clock.now <= 10 * 1.25 + 20


def test_a_series_that_fails_is_given_up_and_the_others_go_on() -> None:
    clock = FakeClock()
    series = [a_series(clock, "a", 100), a_series(clock, "b", 100, fails_at=6), a_series(clock, "c", 100, fails_at=1)]
    measure_groups([group(series)], plain(budget_s=60, max_rounds=6), clock=clock, sleep=clock.sleep)
    assert [len(item.rounds) for item in series] == [6, 2, 0]
    assert [item.failure for item in series] == ["", "RuntimeError: broke", "RuntimeError: broke"]


def test_an_interrupt_leaves_whole_rounds() -> None:
    clock = FakeClock()
    series = [a_series(clock, "a", 100), a_series(clock, "b", 100)]
    made = 0

    def interrupted(window: int):
        def run() -> None:
            nonlocal made
            made += 1
            if made == 8:
                raise KeyboardInterrupt
            clock.wait("c", 100)

        return run

    series.append(Series(candidate="c", windows=1, call=interrupted, stopwatch=partial(wall_ms, clock=clock)))
    with pytest.raises(KeyboardInterrupt):
        measure_groups([group(series)], plain(budget_s=60, max_warm_up=3), clock=clock, sleep=clock.sleep)
    assert [len(item.rounds) for item in series] == [4, 4, 4]


@pytest.mark.slow
def test_measuring_costs_less_than_a_hundredth_of_what_is_measured() -> None:
    def work() -> None:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass

    series = [Series(candidate=name, windows=4, call=lambda _: work) for name in "abcd"]
    whole = group(series)
    measure_groups([whole], plain(budget_s=5, max_rounds=25), clock=time.process_time)
    timed = sum(ms for item in series for of_round in item.rounds for ms in of_round) / 1e3
    assert len(series[0].rounds) == 25
    assert whole.spent_s <= 1.01 * timed  # processor time spent, against wall time measured
