"""What changed since an earlier run, beyond the range of both runs' rounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from frcnn.benchmarks.report.results import Change, Comparison, Ratio, Results, Row, Verdict
from frcnn.errors import UsageError

_MIN_ROUNDS: Final = 5
"""Min to max of so many rounds holds the true median with 94 %."""

_Judged = tuple[Verdict, str]
"""A verdict and its reason."""


def compare_runs(old: Results, new: Results, *, file: Path, limit: float) -> Comparison:
    """Compare two runs, by each candidate's ratio to eager within its own run.

    Ratios are free of how fast the system happened to be, so they are judged; eager itself, which has none, is not. A
    candidate is slower when its ratio fell by more than the limit and more than either run's noise, and each run's
    median lies outside the other's rounds, or when it no longer is ``ok``. Intervals of the median would be too
    narrow: a system has phases, which last longer than a round and differ from run to run. Ratios of fewer than 5
    rounds are not judged.
    """
    _require_same_task(old, new, file)
    noise = max(run.noise.noise or 0.0 for run in (old, new))
    changes: list[Change] = []
    earlier = {row.id: row for row in old.rows}
    for row in new.rows:
        before = earlier.pop(row.id, None)
        if before is None:
            changes.append(_change(row, "", row.status, ("not comparable", "not in the earlier run")))
        elif before.status != row.status:
            other: Verdict = "gain" if row.status == "ok" else "not comparable"
            verdict: Verdict = "regression" if before.status == "ok" else other
            changes.append(_change(row, before.status, row.status, (verdict, row.reason)))
        else:
            changes += _ratios(before, row, limit, noise)
    changes += [_change(row, row.status, "", ("not comparable", "not in this run")) for row in earlier.values()]
    return Comparison(file=str(file), limit=limit, notes=tuple(_notes(old, new)), changes=tuple(changes))


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
    then, now = ({**_facts(run), **run.environment.packages} for run in (old, new))
    notes = [
        f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in dict.fromkeys((*_facts(new), *sorted(then | now)))
        if then.get(name) != now.get(name)
    ]
    if old.workload.images != new.workload.images:
        notes.append("images differ")
    for when, run in (("earlier", old), ("this", new)):
        notes += [f"the {when} run is partial: {run.partial_reason}"] * run.partial
        notes += [f"the {when} run's system was too noisy"] * run.noise.too_noisy
    return notes


def _facts(run: Results) -> dict[str, object]:
    system = run.environment
    return {
        "CPU": system.cpu,
        "threads": system.threads,
        "GPU": None if system.gpu is None else system.gpu.name,
        "operating system": system.os,
        "frcnn": system.frcnn,
        "checkpoint": run.workload.checkpoint_sha256,
    }


def _change(row: Row, old: str, new: str, judged: _Judged, **measured: Any) -> Change:
    """Return a change of a row's status, or of what was measured."""
    status = {"scope": None, "batch": None, "what": "status", "change": None}
    verdict, reason = judged
    return Change(row=row.id, name=row.name, old=old, new=new, verdict=verdict, reason=reason, **status | measured)


def _ratios(old: Row, new: Row, limit: float, noise: float) -> Iterator[Change]:
    for measure in new.measures:
        before, now = old.measure(measure.scope, measure.batch), measure.ratio
        if before is not None and before.ratio is not None and now is not None:
            then = before.ratio
            judged = _judged(then, now, limit, noise)
            measured = {"scope": measure.scope, "batch": measure.batch, "what": "x eager"}
            yield _change(new, _text(then), _text(now), judged, **measured, change=now.median / then.median - 1)


def _judged(then: Ratio, now: Ratio, limit: float, noise: float) -> _Judged:
    change = now.median / then.median - 1
    if min(then.rounds, now.rounds) < _MIN_ROUNDS:
        return "not comparable", f"fewer than {_MIN_ROUNDS} rounds"
    if then.min <= now.median <= then.max or now.min <= then.median <= now.max:
        return "same", "within the range of the two runs"
    if abs(change) <= limit:
        return "same", f"within the limit of {limit:.1%}"
    if abs(change) <= noise:
        return "same", f"within the noise of {noise:.1%}"
    return ("regression" if change < 0 else "gain"), ""


def _text(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f})"
