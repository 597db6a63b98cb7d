"""Charts of two axes; each is left out where the run has nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from frcnn.benchmarks.report.axes import Axis
from frcnn.benchmarks.report.charts import Mark, legend, plane
from frcnn.benchmarks.report.document import Figure, Table, TableRow
from frcnn.benchmarks.report.drawn import Drawn, drawn_rows
from frcnn.benchmarks.report.formatting import NONE, ms, number, tick
from frcnn.benchmarks.report.markup import Markup, join
from frcnn.benchmarks.report.ranking import head_measure
from frcnn.benchmarks.report.results import Correctness, Curve, Measure, Results

__all__ = ["accuracy_figures", "agreement", "batch_figure", "curve_figures"]


_Series = tuple[Drawn, list[tuple[float, float, tuple[float, float] | None]]]
"""A row and its points: x, y, and the ends of a bar."""


def batch_figure(results: Results) -> Figure | None:
    """Return images per second against the batch, for rows measured at several sizes."""
    found: list[tuple[Drawn, list[Measure]]] = []
    for drawn in drawn_rows(results):
        measures = sorted((m for m in drawn.row.measures if m.scope == "images"), key=lambda m: m.batch)
        if len(measures) > 1:
            found.append((drawn, measures))
    if not found:
        return None
    batches = sorted({measure.batch for _, measures in found for measure in measures})
    series: list[_Series] = [(drawn, [(float(m.batch), m.fps, None) for m in measures]) for drawn, measures in found]
    fps = [m.fps for _, measures in found for m in measures]
    throughput = Axis.fitted(fps)
    drawing = _lines_drawing(
        series,
        x=Axis.logarithmic(batches, margin=1.08).with_ticks(batches),
        y=throughput,
        says="Images per second against the batch size; the numbers are in the table",
        x_unit="images in a batch",
        y_unit="images per second" + (", logarithmic" if throughput.log else ""),
    )
    table: list[TableRow] = [
        (drawn.cell(), *(number(of[b].fps) if b in of else NONE for b in batches))
        for drawn, measures in found
        for of in ({m.batch: m for m in measures},)
    ]
    return Figure(
        title="Throughput against the batch",
        note="Image to boxes. Higher is better; a flat line gains nothing from larger batches.",
        drawing=drawing,
        table=Table(caption="Images per second", columns=("way", *(f"batch {b}" for b in batches)), rows=tuple(table)),
    )


def _lines_drawing(series: Sequence[_Series], *, x: Axis, y: Axis, says: str, x_unit: str, y_unit: str) -> Markup:
    marks, lines = [], []
    for drawn, points in series:
        for place, (at, value, bar) in enumerate(points):
            says_point = f"{drawn.name}: {number(value)} {y_unit} at {tick(at)} {x_unit}"
            last = place == len(points) - 1
            marks.append(
                Mark(
                    x=at,
                    y=value,
                    key=drawn.key,
                    colour=drawn.colour,
                    says=says_point,
                    hollow=drawn.hollow,
                    bar=bar,
                    lettered=last,
                )
            )
            if place:
                kind = f"line c{drawn.colour}{' hollow' if drawn.hollow else ''}"
                lines.append((points[place - 1][:2], (at, value), kind))
    chart = plane(marks, x, y, says=says, x_unit=x_unit, y_unit=y_unit, x_written=tick, y_written=tick, lines=lines)
    return join(chart, legend([drawn.entry() for drawn, _ in series]))


def accuracy_figures(results: Results) -> list[Figure]:
    """Return speed against agreement with eager: two charts over the same time axis."""
    found = [
        (drawn, measure, drawn.row.correctness)
        for drawn in drawn_rows(results)
        if (measure := head_measure(results, drawn.row)) is not None and drawn.row.correctness is not None
    ]
    if not found:
        return []
    eager = [m.p50_ms for row in results.rows[:1] if row.id == row.reference and (m := head_measure(results, row))]
    x = Axis.fitted([*eager, *(measure.p50_ms for _, measure, _ in found)])
    kept, moved = [], []
    for drawn, measure, check in found:
        share = 100 * agreement(check)
        about = f"{drawn.name}: p50 {ms(measure.p50_ms)} ms"
        point = Mark(
            x=measure.p50_ms,
            y=share,
            key=drawn.key,
            colour=drawn.colour,
            says=f"{about}, {share:.1f} % of the detections agree",
            hollow=drawn.hollow,
        )
        kept.append(point)
        moved.append(replace(point, y=check.box_px, says=f"{about}, boxes differ by up to {number(check.box_px)} px"))
    lowest = min(mark.y for mark in kept)
    x_unit = "p50, milliseconds; further left is faster"
    entries = legend([drawn.entry() for drawn, _, _ in found])

    def drawing(marks: list[Mark], y: Axis, says: str, unit: str) -> Markup:
        dashed = [((at, y.low), (at, y.high), "mark") for at in eager]
        chart = plane(marks, x, y, says=says, x_unit=x_unit, y_unit=unit, x_written=tick, y_written=tick, lines=dashed)
        return join(chart, entries)

    percent_axis = Axis(low=_floor(lowest), high=100.0, log=False, ticks=Axis.linear([100.0], low=_floor(lowest)).ticks)
    return [
        Figure(
            title="Speed against detections that agree",
            note="Share of detections that eager and the row have in common, within the limits. Up and left is better."
            " Hollow: wrong. Dashed: eager fp32.",
            drawing=drawing(kept, percent_axis, "Detections that agree against time", "% of detections that agree"),
            table=None,
        ),
        Figure(
            title="Speed against the largest difference of a box",
            note="Among the pairs of one label. Down and left is better. Hollow: wrong. Dashed: eager fp32.",
            drawing=drawing(
                moved,
                Axis.logarithmic([mark.y for mark in moved], margin=1.6),
                "Largest difference of a box coordinate against time",
                "pixels of the image, logarithmic",
            ),
            table=None,
        ),
    ]


def _floor(lowest: float) -> float:
    """Return the foot of an axis of per cents: as near under the lowest as keeps differences in sight."""
    return next((foot for foot in (99.0, 95.0, 90.0, 75.0, 50.0) if lowest > foot), 0.0)


def curve_figures(results: Results) -> list[Figure]:
    """Return cost curves, one chart for each thing that grows."""
    figures = []
    drawn = {one.row.id: one for one in drawn_rows(results)}
    for kind in dict.fromkeys(curve.kind for curve in results.curves):
        curves = [c for c in results.curves if c.kind == kind and c.row in drawn and c.points]
        if curves:
            figures.append(_curve_figure(kind, curves, drawn))
    return figures


def _curve_figure(kind: str, curves: list[Curve], drawn: dict[str, Drawn]) -> Figure:
    points = [(curve, point) for curve in curves for point in curve.points]
    xs = [point.x for _, point in points]
    x = Axis.fitted(xs) if min(xs) > 0 else Axis.linear(xs)
    drawing = _lines_drawing(
        [(drawn[curve.row], [(p.x, p.median_ms, (p.low_ms, p.high_ms)) for p in curve.points]) for curve in curves],
        x=x.with_ticks(xs),
        y=Axis.fitted([end for _, p in points for end in (p.low_ms, p.high_ms)]),
        says=f"Milliseconds a call against {curves[0].unit}; the numbers are in the table",
        x_unit=curves[0].unit,
        y_unit="milliseconds a call",
    )
    notes = " ".join(dict.fromkeys(curve.note for curve in curves if curve.note))
    rows = tuple(
        (drawn[curve.row].cell(), tick(p.x), ms(p.median_ms), ms(p.low_ms), ms(p.high_ms), number(p.fps))
        for curve, p in points
    )
    return Figure(
        title=f"Cost against {'the batch' if kind == 'batch' else kind}",
        note="Medians, with a bar from quartile to quartile.",
        drawing=drawing,
        table=Table(
            caption=". ".join(part for part in ("Milliseconds a call", notes) if part),
            columns=("way", curves[0].unit, "median ms", "quartile", "quartile", "images/s"),
            rows=rows,
        ),
    )


def agreement(check: Correctness) -> float:
    """Return the share of all objects, eager's and the row's, that both have with one label and in one place."""
    objects = check.matched + check.relabelled + check.unmatched
    return max(0.0, 1 - (check.unmatched + check.relabelled + check.moved) / objects) if objects else 1.0
