"""What changed since an earlier run, beyond both runs' spread."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from frcnn.benchmarks.report.results import Change, Comparison, Measure, Ratio, Results, Row, Verdict
from frcnn.errors import UsageError

__all__ = ["compare_runs", "regressions"]

_FEWEST_ROUNDS: Final = 5
"""Least to most of so many rounds holds the true median with 94 %."""


def compare_runs(old: Results, new: Results, *, file: Path, limit: float) -> Comparison:
    """Compare two runs, by each row's ratio to eager within its own run.

    Ratios are free of how fast the system happened to be, so that is what is judged; eager itself, which has none, is
    judged by nothing. A row is slower when its ratio fell by more than the limit and more than either run's noise, and
    each run's median lies outside the other's rounds, or when it no longer is ``ok``. Intervals of the median would be
    too narrow: a system has phases, which last longer than a round and differ from run to run. Ratios of fewer than 5
    rounds are not judged.

    Args:
        old: the earlier run.
        new: this one.
        file: of the earlier run.
        limit: 0.05 is 5 %.

    Raises:
        UsageError: the earlier run is of another model or other images, and says nothing of this one.
    """
    _require_same_task(old, new, file)
    changes: list[Change] = []
    olds = {row.id: row for row in old.rows}
    for row in new.rows:
        before = olds.pop(row.id, None)
        changes += [_no_row(row, "not in the earlier run")] if before is None else _changes(before, row)
    changes += [_no_row(row, "not in this run") for row in olds.values()]
    noise = max(run.noise.noise or 0.0 for run in (old, new))
    judged = tuple(_judged(change, limit, noise) for change in changes)
    return Comparison(file=str(file), limit=limit, notes=tuple(_notes(old, new)), changes=judged)


def regressions(comparison: Comparison) -> list[Change]:
    """Return what became worse."""
    return [change for change in comparison.changes if change.verdict == "regression"]


def _require_same_task(old: Results, new: Results, file: Path) -> None:
    then, now = old.workload, new.workload
    for what, expected, got in (
        ("model", now.model, then.model),
        ("number of classes", now.num_classes, then.num_classes),
        ("device", now.device, then.device),
        ("canvases", now.canvases, then.canvases),
        ("images", len(now.images), len(then.images)),
    ):
        if expected != got:
            raise UsageError(
                f"--against: {file} is of another task: {what}: expected {expected}, got {got}",
                hint="compare runs of one model on the same images and device",
            )


def _notes(old: Results, new: Results) -> list[str]:
    notes = []
    for what, then, now in (
        ("CPU", old.environment.cpu, new.environment.cpu),
        ("threads", old.environment.threads, new.environment.threads),
        ("GPU", _gpu(old), _gpu(new)),
        ("operating system", old.environment.os, new.environment.os),
        ("frcnn", old.environment.frcnn, new.environment.frcnn),
        ("checkpoint", old.workload.checkpoint_sha256, new.workload.checkpoint_sha256),
        ("images", old.workload.images, new.workload.images),
    ):
        if then != now:
            notes.append(f"{what} differ" if what == "images" else f"{what}: {then} then, {now} now")
    packages = old.environment.packages, new.environment.packages
    for package in sorted(packages[0].keys() | packages[1].keys()):
        versions = [of_run.get(package, "none") for of_run in packages]
        if versions[0] != versions[1]:
            notes.append(f"{package}: {versions[0]} then, {versions[1]} now")
    for when, run in (("earlier", old), ("this", new)):
        if run.partial:
            notes.append(f"the {when} run is partial: {run.partial_reason}")
        if run.noise.too_noisy:
            notes.append(f"the {when} run's system was too noisy")
    return notes


def _gpu(run: Results) -> str | None:
    return None if run.environment.gpu is None else run.environment.gpu.name


def _changes(old: Row, new: Row) -> list[Change]:
    if old.status != new.status:
        return [_change(new, None, "status", old.status, new.status)]
    changes = []
    for measure in new.measures:
        before = old.measure(measure.scope, measure.batch)
        if before is None or before.ratio is None or measure.ratio is None:
            continue
        changes.append(
            _change(
                new, measure, "x eager", _text(before.ratio), _text(measure.ratio), then=before.ratio, now=measure.ratio
            )
        )
    return changes


def _change(
    row: Row,
    measure: Measure | None,
    what: str,
    old: str,
    new: str,
    *,
    then: Ratio | None = None,
    now: Ratio | None = None,
) -> Change:
    change: float | None = None
    verdict: Verdict = "same"
    reason = ""
    if then is not None and now is not None:
        change = now.median / then.median - 1
        if min(then.rounds, now.rounds) < _FEWEST_ROUNDS:
            verdict, reason = "not comparable", f"fewer than {_FEWEST_ROUNDS} rounds"
        elif then.min <= now.median <= then.max or now.min <= then.median <= now.max:
            reason = "within the spread of the two runs"
        else:
            verdict = "regression" if change < 0 else "gain"
    elif what == "status":
        verdict = "regression" if old == "ok" else "gain" if new == "ok" else "not comparable"
        reason = row.reason
    return Change(
        row=row.id,
        name=row.name,
        scope=None if measure is None else measure.scope,
        batch=None if measure is None else measure.batch,
        what=what,
        old=old,
        new=new,
        change=change,
        verdict=verdict,
        reason=reason,
    )


def _judged(change: Change, limit: float, noise: float) -> Change:
    """Call a change that is within the limit or the noise the same."""
    if change.change is None or change.verdict not in ("regression", "gain"):
        return change
    if abs(change.change) <= limit:
        return msgspec.structs.replace(change, verdict="same", reason=f"within the limit of {limit:.1%}")
    if abs(change.change) <= noise:
        return msgspec.structs.replace(change, verdict="same", reason=f"within the noise of {noise:.1%}")
    return change


def _no_row(row: Row, why: str) -> Change:
    then, now = ("", row.status) if why == "not in the earlier run" else (row.status, "")
    return Change(
        row=row.id,
        name=row.name,
        scope=None,
        batch=None,
        what="status",
        old=then,
        new=now,
        change=None,
        verdict="not comparable",
        reason=why,
    )


def _text(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f})"
