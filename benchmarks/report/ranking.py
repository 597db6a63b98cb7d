"""Which row is fastest, and whether the run can say so.

Only a row that is ``ok`` and whose detections were compared with eager's in the same run takes part. Rows whose
difference is within the noise share a rank; on a system too noisy to tell rows apart there are no ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from frcnn.benchmarks.report.document import Headline
from frcnn.benchmarks.report.formatting import listing, number, percent, ratio_text
from frcnn.benchmarks.report.results import Measure, Ratio, Results, Row

_OURS: Final = "frcnn, "
"""Names of candidates that run our files begin so."""


def first_batch(results: Results) -> int:
    """Return the batch size that rows are ranked by: 1, or the smallest that was asked for."""
    batches = results.workload.batches
    return 1 if 1 in batches else min(batches, default=1)


def head_measure(results: Results, row: Row) -> Measure | None:
    """Return what a row is ranked by: images to boxes, one at a time."""
    return row.measure("images", first_batch(results))


def ratio_of(row: Row, measure: Measure | None) -> Ratio | None:
    """Return a measure's ratio; None for a row that is not ``ok``: wrong detections are no gain, however fast."""
    return measure.ratio if measure is not None and row.status == "ok" else None


def _head_ratio(results: Results, row: Row) -> Ratio | None:
    return ratio_of(row, head_measure(results, row))


def ranked(results: Results) -> list[Row]:
    """Return the rows that may be called fast, the fastest first."""
    found = {row.id: ratio for row in results.rows if (ratio := _head_ratio(results, row)) is not None}
    rows = [
        row
        for row in results.rows
        if row.id in found and row.id != row.reference and row.correctness is not None and row.correctness.passed
    ]
    return sorted(rows, key=lambda row: -found[row.id].median)


def _told_apart(results: Results, first: Row, second: Row) -> bool:
    pair = {first.id, second.id}
    batch = first_batch(results)
    return not any(
        {blur.first, blur.second} == pair and (blur.scope, blur.batch) == ("images", batch)
        for blur in results.noise.not_told_apart
    )


def ranks(results: Results) -> dict[str, int]:
    """Return row id -> 1 + how many rows are faster beyond noise; empty where the system was too noisy."""
    if results.noise.too_noisy:
        return {}
    rows = ranked(results)
    return {
        row.id: 1 + sum(_told_apart(results, faster, row) for faster in rows[:place]) for place, row in enumerate(rows)
    }


def headline(results: Results) -> Headline:
    """Return the result of the run: the fastest correct row of ours against eager, or why there is none.

    A partial run is called partial first.
    """
    result = _result(results)
    if not results.partial:
        return result
    note = f"This run is partial: {results.partial_reason.rstrip('.')}. What is here was measured in full."
    return result._replace(notes=(note, *result.notes), tone="warning")


def _result(results: Results) -> Headline:
    every = ranked(results)
    rows, notes = [row for row in every if row.name.startswith(_OURS)], _notes(results, every)
    if not rows:
        text = "No row of frcnn was both measured and found right against eager, so none is called fast."
        return Headline("", text, notes, "warning")
    best = rows[0]
    measure, ratio, reference = head_measure(results, best), _head_ratio(results, best), results.row(best.reference)
    assert measure is not None and ratio is not None, "a ranked row was measured"
    title = best.name.removeprefix(_OURS)
    title += "" if best.precision in title else f", {best.precision}"
    reading = f"its fastest correct row reads {ratio_text(ratio)}, {_interval(ratio)}: {title}"
    if results.noise.too_noisy:
        is_faster = ratio.low > 1 + (results.noise.noise or 0.0)
        text = "frcnn is faster than eager, by how much the system was too noisy to say"
        text = f"{text if is_faster else 'Too noisy to tell frcnn from eager'}: {reading}."
        text += " Do not quote it; run again on a quiet system."
        return Headline("", text, notes, "warning")
    if ratio.low <= 1 <= ratio.high or (reference is not None and not _told_apart(results, best, reference)):
        return Headline("", f"frcnn cannot be told apart from eager: {reading}.", notes, "warning")
    of_reference = None if reference is None else head_measure(results, reference)
    against = "" if of_reference is None else f" against {number(of_reference.p50_ms)} ms"
    boxes = "same boxes" if best.precision == "fp32" else f"boxes within the limits of {best.precision}"
    batch = "" if measure.batch == 1 else f", a batch of {measure.batch}"
    text = f"frcnn {ratio.median:.2f}x eager ({number(measure.p50_ms)} ms{against}), {boxes}: {title}{batch}"
    if ratio.high < 1:
        return Headline("", f"{text}; nothing of frcnn is faster than eager here", notes, "bad")
    if every[0] is not best and _told_apart(results, every[0], best):
        text += f"; faster still: {every[0].name}"
    times = f"Image to boxes: p90 {number(measure.p90_ms)} ms; {ratio_text(ratio)} eager, {_interval(ratio)}."
    rivals = [row for row in every if row is not best and not _told_apart(results, best, row)]
    close = (f"It cannot be told apart from {_names(rivals)}.",) if rivals else ()
    return Headline(f"{ratio.median:.2f}x", text, (times, *close, *notes), "good")


def _notes(results: Results, rows: list[Row]) -> tuple[str, ...]:
    noise, ok = results.noise, [row for row in results.rows if row.status == "ok" and row.id != row.reference]
    wrong = [row for row in results.rows if row.status == "wrong"]
    unchecked = [row for row in ok if row.correctness is None and head_measure(results, row)]
    random = results.workload.checkpoint is None
    told = rows and not noise.too_noisy and noise.noise is not None
    notes = {
        f"Measured but wrong, so not ranked: {_names(wrong)}.": wrong,
        f"Measured but not compared with eager, so not ranked: {_names(unchecked)}.": unchecked,
        f"Differences below {percent(noise.noise)} cannot be told from noise in this run.": told,
        "The weights are random: speed can be read from this run, accuracy cannot.": random,
    }
    return tuple(note for note, holds in notes.items() if holds)


def _interval(ratio: Ratio) -> str:
    if ratio.rounds < 6:
        return f"smallest and largest of {ratio.rounds} round{'s' if ratio.rounds != 1 else ''}"
    return f"95 % interval of the median, {ratio.rounds} rounds"


def _names(rows: Sequence[Row]) -> str:
    return listing([row.name for row in rows])
