"""``--against``: what changed, beyond the limit and the range of both runs' rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bench_results import EAGER, made_up, replaced

from frcnn.benchmarks.report.regression import compare_runs, regressions
from frcnn.benchmarks.report.results import Change, Measure, Ratio, Results
from frcnn.errors import UsageError

ROW = next(row.id for row in made_up().rows if row.status == "ok" and row.id != EAGER)


def ratio(median: float, share: float = 0.01) -> Ratio:
    low, high = median * (1 - share), median * (1 + share)
    return Ratio(median=median, min=low, max=high, low=low, high=high, rounds=9)


def run_with(now: Ratio, *, status: str = "ok") -> Results:
    """Return a run in which one row has this ratio everywhere."""

    def changed(measure: Measure) -> Measure:
        return replaced(measure, ratio=now)

    made = made_up()
    rows = [
        replaced(row, measures=tuple(map(changed, row.measures)), status=status, reason="") if row.id == ROW else row
        for row in made.rows
    ]
    return replaced(made, rows=tuple(rows))


def changes(old: Results, new: Results, limit: float = 0.05) -> list[Change]:
    comparison = compare_runs(old, new, file=Path("old.json"), limit=limit)
    return [change for change in comparison.changes if change.row == ROW]


def test_a_run_against_itself_has_changed_in_nothing() -> None:
    comparison = compare_runs(made_up(), made_up(), file=Path("old.json"), limit=0.0)
    assert {change.verdict for change in comparison.changes} == {"same"}
    assert not comparison.notes or all("partial" in note or "noisy" in note for note in comparison.notes)
    assert not regressions(comparison)


@pytest.mark.parametrize(
    ("then", "now", "limit", "verdict"),
    [
        (ratio(2.0), ratio(1.8), 0.05, "regression"),  # 10 % slower, intervals apart
        (ratio(2.0), ratio(2.3), 0.05, "gain"),
        (ratio(2.0), ratio(1.92), 0.05, "same"),  # beyond the rounds, within the limit
        (ratio(2.0), ratio(1.92), 0.03, "regression"),
        (ratio(2.0, 0.2), ratio(1.7, 0.2), 0.05, "same"),  # beyond the limit, within the rounds
        (ratio(2.0), ratio(2.0), 0.0, "same"),
    ],
)
def test_slower_is_a_regression_only_beyond_the_limit_and_both_runs_rounds(then, now, limit, verdict) -> None:
    found = changes(run_with(then), run_with(now), limit)
    assert found and {change.verdict for change in found} == {verdict}
    assert found[0].change == pytest.approx(now.median / then.median - 1)


def test_a_change_within_either_runs_noise_is_the_same() -> None:
    old, new = run_with(ratio(2.0)), run_with(ratio(1.5))
    loud = replaced(old, noise=replaced(old.noise, noise=0.3))
    assert {change.verdict for change in changes(old, new)} == {"regression"}
    for pair in ((loud, new), (old, replaced(new, noise=loud.noise))):
        assert {(change.verdict, change.reason) for change in changes(*pair)} == {("same", "within the noise of 30.0%")}


def test_ratios_of_few_rounds_are_not_judged() -> None:
    few = replaced(ratio(1.0, 0.0), rounds=4)
    assert {change.verdict for change in changes(run_with(ratio(2.0)), run_with(few))} == {"not comparable"}


@pytest.mark.parametrize("status", ["wrong", "failed", "unavailable"])
def test_a_candidate_that_no_longer_is_ok_is_a_regression(status) -> None:
    (change,) = changes(run_with(ratio(2)), run_with(ratio(9), status=status))
    assert (change.what, change.old, change.new, change.verdict) == ("status", "ok", status, "regression")
    (back,) = changes(run_with(ratio(2), status=status), run_with(ratio(2)))
    assert back.verdict == "gain"


def test_candidates_of_one_run_only_are_listed_and_not_judged() -> None:
    whole = made_up()
    less = replaced(whole, rows=tuple(row for row in whole.rows if row.id != ROW))
    for old, new, why in ((less, whole, "not in the earlier run"), (whole, less, "not in this run")):
        (change,) = changes(old, new)
        assert (change.verdict, change.reason) == ("not comparable", why)


def test_another_task_is_refused() -> None:
    made = made_up()
    other = replaced(made, workload=replaced(made.workload, num_classes=7))
    with pytest.raises(UsageError, match=f"number of classes: expected {made.workload.num_classes}, got 7"):
        compare_runs(other, made, file=Path("old.json"), limit=0.05)


def test_another_system_is_noted() -> None:
    made = made_up()
    packages = made.environment.packages | {"torch": "0.1"}
    other = replaced(made, environment=replaced(made.environment, cpu="abacus", packages=packages))
    notes = compare_runs(other, made, file=Path("old.json"), limit=0.05).notes
    assert f"CPU: abacus then, {made.environment.cpu} now" in notes
    assert any(note.startswith("torch: 0.1 then") for note in notes)
