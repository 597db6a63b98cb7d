"""Which row is fastest, and whether the run can say so.

Only a row that is ``ok`` and whose detections were compared with eager's in the same run takes part. Rows whose
difference is within the noise share a rank; on a system too noisy to tell rows apart there are no ranks.
"""

from __future__ import annotations

from frcnn.benchmarks.report.document import Headline
from frcnn.benchmarks.report.formatting import ms, percent, quoted, ratio_text, spread_text
from frcnn.benchmarks.report.results import Measure, Ratio, Results, Row

__all__ = ["first_batch", "head_measure", "headline", "ranked", "ranks", "ratio_of"]


def first_batch(results: Results) -> int:
    """Return the batch size that rows are ranked by: 1, or the smallest that was asked for."""
    batches = results.workload.batches
    return 1 if 1 in batches else min(batches, default=1)


def head_measure(results: Results, row: Row) -> Measure | None:
    """Return what a row is ranked by: images to boxes, one at a time."""
    return row.measure("images", first_batch(results))


def ratio_of(row: Row, measure: Measure | None) -> Ratio | None:
    """Return a measure's ratio; None for a row that is not ``ok``: a wrong answer is no gain, however fast."""
    return measure.ratio if measure is not None and row.status == "ok" else None


def _head_ratio(results: Results, row: Row) -> Ratio | None:
    return ratio_of(row, head_measure(results, row))


def ranked(results: Results) -> list[Row]:
    """Return the rows that may be called fast, the fastest first."""
    found = [
        (ratio.median, row)
        for row in results.rows
        if row.id != row.reference
        and row.correctness is not None
        and row.correctness.passed
        and (ratio := _head_ratio(results, row)) is not None
    ]
    return [row for _, row in sorted(found, key=lambda pair: -pair[0])]


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
    """Return the answer of the run: the fastest correct row against eager, or why there is none."""
    rows = ranked(results)
    remarks = _remarks(results, rows)
    if not rows:
        return Headline(
            figure="",
            text="No row was both measured and found right against eager, so none is called fast.",
            remarks=remarks,
            tone="warning",
        )
    best = rows[0]
    ratio = _head_ratio(results, best)
    assert ratio is not None, "a ranked row has a ratio"
    reference = results.row(best.reference)
    against = "eager" if reference is None else reference.name
    says = f"{ratio_text(ratio)}, {spread_text(ratio)}"
    if results.noise.too_noisy:
        text = "This system was too noisy to tell rows apart."
        unsure = f"The fastest correct row reads {says}: {best.name}. Do not quote it; run again on a quiet system."
        return Headline(figure="", text=text, remarks=(unsure, *remarks), tone="warning")
    if ratio.low <= 1 <= ratio.high or (reference is not None and not _told_apart(results, best, reference)):
        text = f"No correct row can be told apart from {against}."
        return Headline(
            figure="", text=text, remarks=(f"The fastest reads {says}: {best.name}.", *remarks), tone="warning"
        )
    if ratio.high < 1:
        text = f"Nothing here is faster than {against}."
        return Headline(
            figure="", text=text, remarks=(f"The fastest correct row reads {says}: {best.name}.", *remarks), tone="bad"
        )
    text = f"{best.name} is {ratio.median:.2f} times as fast as {against} ({ratio.low:.2f} to {ratio.high:.2f})."
    rivals = [row for row in rows[1:] if not _told_apart(results, best, row)]
    close = (f"It cannot be told apart from {quoted(rivals)}.",) if rivals else ()
    return Headline(
        figure=f"{ratio.median:.2f}x",
        text=text,
        remarks=(_times(results, best, reference, ratio), *close, *remarks),
        tone="good",
    )


def _times(results: Results, best: Row, reference: Row | None, ratio: Ratio) -> str:
    """Say the times behind the headline."""
    of_best = head_measure(results, best)
    of_reference = None if reference is None else head_measure(results, reference)
    assert of_best is not None, "a ranked row was measured"
    batch = of_best.batch
    call = "" if batch == 1 else f", a batch of {batch}"
    times = f"Image to boxes{call}: p50 {ms(of_best.p50_ms)} ms, p90 {ms(of_best.p90_ms)} ms"
    if of_reference is not None:
        times += f"; {'eager' if reference is None else reference.name}: p50 {ms(of_reference.p50_ms)} ms"
    sized = " Both on equal-sized images." if best.images == "equal-sized" else ""
    return f"{times}. The spread is the {spread_text(ratio)}.{sized}"


def _remarks(results: Results, rows: list[Row]) -> tuple[str, ...]:
    remarks = []
    wrong = [row for row in results.rows if row.status == "wrong"]
    if wrong:
        remarks.append(f"Measured but wrong, so not ranked: {quoted(wrong)}.")
    unchecked = [row for row in results.rows if _unchecked(results, row)]
    if unchecked:
        remarks.append(f"Measured but not compared with eager, so not ranked: {quoted(unchecked)}.")
    if rows and not results.noise.too_noisy and results.noise.noise is not None:
        remarks.append(f"Differences below {percent(results.noise.noise)} cannot be told from noise in this run.")
    if results.workload.checkpoint is None:
        remarks.append("The weights are random: speed can be read from this run, accuracy cannot.")
    return tuple(remarks)


def _unchecked(results: Results, row: Row) -> bool:
    return (
        row.status == "ok"
        and row.id != row.reference
        and row.correctness is None
        and head_measure(results, row) is not None
    )
