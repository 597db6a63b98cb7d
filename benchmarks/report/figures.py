"""The figures of a run. A series is known by its letter as well as its colour, the same in every figure and table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Final

from frcnn.benchmarks.report.document import Cell, Figure, Table, TableRow
from frcnn.benchmarks.report.drawing import (
    BAND,
    COLOURS,
    INK,
    PLANE,
    ROW,
    SERIES,
    bars,
    box,
    letters,
    lines,
    name_rows,
    scale,
    svg,
    units,
)
from frcnn.benchmarks.report.formatting import NONE, key_of, ms, number, percent, ratio_text, tick
from frcnn.benchmarks.report.ranking import first_batch, head_measure, ranked, ratio_of
from frcnn.benchmarks.report.results import Ceilings, Correctness, Curve, Results, Roofline, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "accuracy_figures",
    "agreement",
    "batch_figures",
    "curve_figures",
    "latency_figures",
    "ratio_figures",
    "roofline_figures",
    "row_cells",
    "stage_cell",
    "stage_figures",
]

_MAX_DOTS: Final = 120
_STAGES: Final = ("decode", "preprocess", "backbone+FPN", "RPN", "RoI pooling", "box head", "post")


def row_cells(results: Results) -> dict[str, Cell]:
    """Return row id -> the row as tables and legends name it; a wrong row is called wrong everywhere."""
    return {
        row.id: Cell(
            text=f"{row.name} (wrong)" if row.status == "wrong" else row.name,
            key=key_of(place),
            colour=place % COLOURS,
            hollow=row.status == "wrong",
        )
        for place, row in enumerate(results.rows)
    }


def _measured(results: Results) -> list[tuple[Row, Cell]]:
    cells = row_cells(results)
    return [(row, cells[row.id]) for row in results.rows if row.status in ("ok", "wrong")]


def ratio_figures(results: Results) -> list[Figure]:
    """Return times eager's speed: a box for each row that is right, and the null pair."""
    found = [
        (cell, ratio)
        for row, cell in _measured(results)
        if (ratio := ratio_of(row, head_measure(results, row))) is not None
    ]
    if not found:
        return []
    null, noise = results.noise.null, results.noise.noise
    if null is not None:
        found.append((Cell(text="one row run as two (null pair)", key="=", colour=COLOURS - 1, hollow=True), null))

    def draw(axes: Axes) -> None:
        scale(axes, "x", [1.0, *(ratio.max for _, ratio in found)], log=False)
        if noise is not None:
            axes.axvspan(1 - noise, 1 + noise, color=BAND, lw=0)
        axes.axvline(1, color=INK, lw=1.2, ls="--")
        for place, (cell, ratio) in enumerate(found):
            box(axes, place, cell, (ratio.min, ratio.low, ratio.median, ratio.high, ratio.max))
        name_rows(axes, [(cell, f"{ratio.median:.2f}x") for cell, ratio in found])
        units(axes, "times eager")

    rows: tuple[TableRow, ...] = tuple(
        (cell, *(f"{v:.2f}" for v in (r.median, r.low, r.high, r.min, r.max)), str(r.rounds)) for cell, r in found
    )
    label = "; ".join(f"{cell.text}: {ratio_text(ratio)}" for cell, ratio in found)
    shade = "" if noise is None else " The shaded band is the noise of this run."
    figure = Figure(
        title="Times as fast as eager",
        note="Stroke: median of the rounds. Box: the interval that the table states. Line: slowest to fastest round."
        f" Dashed: eager.{shade} Wrong rows are not drawn.",
        svg=svg(draw, label=f"Times as fast as eager. {label}", height=ROW * len(found)),
        table=Table(
            caption="Times as fast as eager, by rounds",
            columns=("candidate", "median", "low", "high", "slowest round", "fastest round", "rounds"),
            rows=rows,
        ),
    )
    return [figure]


_Calls = tuple[Cell, list[float], list[float]]
"""A row, the times of its calls from fastest to slowest, and their quartiles."""


def latency_figures(results: Results) -> list[Figure]:
    """Return the distributions of the times of calls, image to boxes: in milliseconds, and by their own medians."""
    found: list[_Calls] = []
    rows: list[TableRow] = []
    for row, cell in _measured(results):
        measure = head_measure(results, row)
        samples = sorted(time for of_round in measure.rounds_ms for time in of_round) if measure is not None else []
        if measure is None or not samples:
            continue
        quartiles = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        found.append((cell, samples, quartiles))
        times = (samples[0], *quartiles, measure.p90_ms, measure.p99_ms, samples[-1])
        rows.append((cell, str(len(samples)), *map(ms, times)))
    if not found:
        return []
    shapes = [(cell, [t / mid for t in times], [low / mid, 1.0, high / mid]) for cell, times, (low, mid, high) in found]
    ends = [time for _, times, _ in found for time in (times[0], times[-1])]
    medians = [f"{ms(quartiles[1])} ms" for _, _, quartiles in found]
    worst = [f"{times[-1]:.2f}x" for _, times, _ in shapes]
    calls = zip(found, medians, strict=True)
    sentence = "; ".join(f"{cell.text}: {len(times)} calls, median {median}" for (cell, times, _), median in calls)
    images = "one image" if first_batch(results) == 1 else f"{first_batch(results)} images"
    heads = ("fastest", "quartile", "median", "quartile", "p90", "p99", "slowest")
    return [
        Figure(
            title="Latency, image to boxes",
            note=f"A dot is a call of {images}, at most {_MAX_DOTS} a row. Box: the middle half. Stroke: median,"
            " written on the right. Hollow: a wrong row.",
            svg=_distributions(found, medians, "milliseconds a call", f"Latency. {sentence}", values=ends),
            table=Table(caption="Times of calls, ms", columns=("candidate", "calls", *heads), rows=tuple(rows)),
        ),
        Figure(
            title="Steadiness: times by each row's own median",
            note="The same calls, so that slow and fast rows can be compared. Written on the right: the slowest call.",
            svg=_distributions(
                shapes,
                worst,
                "times the row's median",
                "The slowest call by the median. "
                + "; ".join(f"{cell.text}: {text}" for (cell, _, _), text in zip(shapes, worst, strict=True)),
                values=[times[-1] for _, times, _ in shapes],
                low=min(0.95, *(times[0] for _, times, _ in shapes), 0.95),
                log=False,
            ),
        ),
    ]


def _distributions(found: Sequence[_Calls], texts: Sequence[str], unit: str, label: str, **axis: Any) -> str:
    """Return a box and dots for every row; ``axis`` is the scale."""

    def draw(axes: Axes) -> None:
        log = scale(axes, "x", **axis)
        for place, (cell, times, quartiles) in enumerate(found):
            # counted from the slowest, which so stays in sight; in three lines, so that equal ones are seen as several
            dots = times[:: -math.ceil(len(times) / _MAX_DOTS)]
            heights = [place + 0.12 + (-0.16, 0, 0.16)[index % 3] for index in range(len(dots))]
            axes.plot(dots, heights, ls="", marker="o", ms=3, mew=0, alpha=0.5, color=SERIES[cell.colour])
            box(axes, place, cell, (times[0], *quartiles, times[-1]))
        name_rows(axes, [(cell, text) for (cell, _, _), text in zip(found, texts, strict=True)])
        units(axes, unit, x_log=log)

    return svg(draw, label=label, height=ROW * len(found))


def batch_figures(results: Results) -> list[Figure]:
    """Return images per second against the batch, for rows measured at several sizes."""
    found = [
        (cell, {m.batch: m.fps for m in sorted(row.measures, key=lambda m: m.batch) if m.scope == "images"})
        for row, cell in _measured(results)
    ]
    found = [(cell, fps) for cell, fps in found if len(fps) > 1]
    if not found:
        return []
    batches = sorted({batch for _, fps in found for batch in fps})
    points = [(cell, [(float(b), value, value, value) for b, value in fps.items()]) for cell, fps in found]
    rows: tuple[TableRow, ...] = tuple(
        (cell, *(number(fps[b]) if b in fps else NONE for b in batches)) for cell, fps in found
    )
    figure = Figure(
        title="Throughput against the batch",
        note="Image to boxes. Higher is better; a flat line gains nothing from larger batches.",
        svg=lines(points, x="images in a batch", y="images per second", ticks=batches),
        legend=tuple(cell for cell, _ in found),
        table=Table(
            caption="Images per second", columns=("candidate", *(f"batch {b}" for b in batches)), rows=tuple(rows)
        ),
    )
    return [figure]


def stage_cell(name: str) -> Cell:
    """Return a stage as figures and tables name it, by its place in a detection."""
    place = _STAGES.index(name)
    return Cell(text=name, key=str(place + 1), colour=place % COLOURS)


def stage_figures(results: Results) -> list[Figure]:
    """Return where the time of an image goes, stage by stage."""
    found = [(cell, {s.name: s for s in row.stages}) for row, cell in _measured(results) if row.stages]
    if not found:
        return []
    cells = [stage_cell(name) for name in _STAGES if any(name in stages for _, stages in found)]
    drawn = []
    rows: list[TableRow] = []
    for cell, stages in found:
        total = ms(sum(stage.ms for stage in stages.values()))
        drawn.append((cell, f"{total} ms", [(stage_cell(name), stage.ms) for name, stage in stages.items()]))
        texts = {str(name): f"{ms(stage.ms)} ({percent(stage.share, 0)})" for name, stage in stages.items()}
        rows.append((cell, *(texts.get(stage.text, NONE) for stage in cells), total))
    label = "; ".join(f"{cell.text}: {total}" for cell, total, _ in drawn)
    columns = ("candidate", *(cell.text for cell in cells), "sum")
    figure = Figure(
        title="Where the time of an image goes",
        note="Medians of each stage, one image at a time. Decoding is no part of “image to boxes”, which starts from"
        " decoded images.",
        svg=bars(drawn, unit="milliseconds an image", label=f"Time by stage; the sums are {label}"),
        legend=tuple(cells),
        table=Table(caption="Milliseconds (share) by stage", columns=columns, rows=tuple(rows)),
    )
    return [figure]


def agreement(check: Correctness) -> float:
    """Return the share of all objects, eager's and the row's, that both have with one label and in one place."""
    objects = check.matched + check.relabelled + check.unmatched
    return max(0.0, 1 - (check.unmatched + check.relabelled + check.moved) / objects) if objects else 1.0


def accuracy_figures(results: Results) -> list[Figure]:
    """Return speed against agreement with eager: two figures over the same time axis."""
    found = [
        (cell, measure.p50_ms, row.correctness)
        for row, cell in _measured(results)
        if (measure := head_measure(results, row)) is not None and row.correctness is not None
    ]
    if not found:
        return []
    eager = [m.p50_ms for row in results.rows[:1] if row.id == row.reference and (m := head_measure(results, row))]
    times = [time for _, time, _ in found]

    def draw(axes: Axes, values: list[float], unit: str, axis: dict[str, Any]) -> None:
        x_log = scale(axes, "x", [*eager, *times])
        y_log = scale(axes, "y", values, **axis)
        for time in eager:
            axes.axvline(time, color=INK, lw=1.2, ls="--")
        low = axes.get_ylim()[0]  # a difference of 0 has no place on a logarithmic scale
        points = zip(found, times, values, strict=True)
        letters(axes, [(time, max(value, low), cell) for (cell, _, _), time, value in points])
        units(axes, "p50 in milliseconds", x_log=x_log, y=unit, y_log=y_log)

    shares = [100 * agreement(check) for _, _, check in found]
    foot = next((foot for foot in (99.0, 95.0, 90.0, 75.0, 50.0) if min(shares) > foot), 0.0)
    differences = [check.box_px for _, _, check in found]
    figures: list[tuple[str, str, str, list[float], dict[str, Any]]] = [
        (
            "Speed against detections that agree",
            "Share of detections that eager and the row have in common, within the limits. Up and left is better.",
            "% of detections that agree",
            shares,
            {"low": foot, "high": 100.0, "log": False},
        ),
        (
            "Speed against the largest difference of a box",
            "Among the pairs of one label. Down and left is better.",
            "pixels of the image",
            differences,
            {"log": True, "margin": 1.6},
        ),
    ]
    return [
        Figure(
            title=title,
            note=f"{note} Hollow: wrong. Dashed: eager fp32.",
            svg=svg(
                partial(draw, values=values, unit=unit, axis=axis),
                label=f"{title}. The numbers are in the tables of rows and of detections against eager's",
                height=PLANE,
            ),
            legend=tuple(cell for cell, _, _ in found),
        )
        for title, note, unit, values, axis in figures
    ]


def curve_figures(results: Results) -> list[Figure]:
    """Return cost curves, one figure for each thing that grows."""
    cells = {row.id: cell for row, cell in _measured(results)}
    by_kind: dict[str, list[Curve]] = {}
    for curve in results.curves:
        if curve.row in cells and curve.points:
            by_kind.setdefault(curve.kind, []).append(curve)
    figures = []
    for kind, curves in by_kind.items():
        notes = " ".join(dict.fromkeys(curve.note for curve in curves if curve.note))
        points = [(cells[c.row], [(p.x, p.median_ms, p.low_ms, p.high_ms) for p in c.points]) for c in curves]
        rows: tuple[TableRow, ...] = tuple(
            (cells[c.row], tick(p.x), *map(ms, (p.median_ms, p.low_ms, p.high_ms)), number(p.fps))
            for c in curves
            for p in c.points
        )
        table = Table(
            caption=f"Milliseconds a call. {notes}" if notes else "Milliseconds a call",
            columns=("candidate", curves[0].unit, "median ms", "quartile", "quartile", "images/s"),
            rows=rows,
        )
        figures.append(
            Figure(
                title=f"Cost against {'the batch' if kind == 'batch' else kind}",
                note="Medians, with a bar from quartile to quartile.",
                svg=lines(points, x=curves[0].unit, y="milliseconds a call"),
                legend=tuple(cell for cell, _ in points),
                table=table,
            )
        )
    return figures


def roofline_figures(results: Results) -> list[Figure]:
    """Return a figure for each device whose ceilings were measured."""
    roofline = results.roofline
    if roofline is None or not any(work.flops > 0 and work.bytes > 0 for work in roofline.work):
        return []
    return [_roofline_figure(results, roofline, ceilings) for ceilings in roofline.ceilings]


def _roofline_figure(results: Results, roofline: Roofline, ceilings: Ceilings) -> Figure:
    device = {"cpu": "CPU", "cuda": "GPU"}.get(ceilings.device, ceilings.device)
    rates, copy = ceilings.matmul_flops_per_s, ceilings.copy_bytes_per_s
    # the fastest right row of the device that has stages
    candidates = [*ranked(results), *(row for row in results.rows if row.status == "ok")]
    row = next((row for row in candidates if row.device == ceilings.device and row.stages), None)
    took = {} if row is None else {stage.name: stage.ms for stage in row.stages if stage.ms > 0}
    works = [work for work in roofline.work if work.flops > 0 and work.bytes > 0]
    reached = [
        (stage_cell(work.stage), work.flops / work.bytes, work.flops / took[work.stage] * 1e3)
        for work in works
        if work.stage in took
    ]

    def draw(axes: Axes) -> None:
        x = [*(work.flops / work.bytes for work in works), *(rate / copy for rate in rates.values())]
        scale(axes, "x", x, log=True, margin=3)
        low, high = axes.get_xlim()
        y = [*(rate for _, _, rate in reached), *rates.values(), copy * low]
        scale(axes, "y", [value / 1e9 for value in y], log=True, margin=1.5)
        for rate in rates.values():
            axes.plot([low, rate / copy, high], [copy * low / 1e9, rate / 1e9, rate / 1e9], color=INK)
        letters(axes, [(intensity, rate / 1e9, cell) for cell, intensity, rate in reached])
        units(axes, "FLOP per byte", x_log=True, y="GFLOP/s", y_log=True)

    # a stage's roof is that of the row's precision, where that was measured
    peak = None if row is None else rates.get(row.precision)
    roofs = [None if peak is None else min(peak, copy * intensity) for _, intensity, _ in reached]
    rows = tuple(
        (cell, number(intensity), number(rate / 1e9), NONE if roof is None else percent(rate / roof, 0))
        for (cell, intensity, rate), roof in zip(reached, roofs, strict=True)
    )
    text = "; ".join(f"{precision} {number(rate / 1e9)} GFLOP/s" for precision, rate in rates.items()) or NONE
    name = "" if row is None else row.name
    profiled = f"Numbers: stages of {name}." if name else "No row of this device was profiled."
    columns = ("stage", "FLOP per byte", "GFLOP/s", "of its roof")
    return Figure(
        title=f"Roofline of the {device}",
        note=f"Measured in the same run: a copy of {number(copy / 1e9)} GB/s (the slope) and matrix products of {text}"
        f" (the roofs). {profiled} A stage without matrix products has no place here.",
        svg=svg(draw, label=f"Roofline of the {device}: {text}; copy {number(copy / 1e9)} GB/s", height=PLANE),
        legend=tuple(cell for cell, _, _ in reached),
        table=Table(caption=f"Stages of {name}", columns=columns, rows=rows) if reached else None,
    )
