"""The figures of a run. A series is known by its letter as well as its colour, the same in every figure and table."""

from __future__ import annotations

from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Final, get_args

from frcnn.benchmarks.report import drawing
from frcnn.benchmarks.report.document import Cell, Figure, Table, TableRow
from frcnn.benchmarks.report.formatting import NONE, number, percent, ratio_text, tick
from frcnn.benchmarks.report.ranking import first_batch, head_measure, ranked, ratio_of
from frcnn.benchmarks.report.results import Ceilings, Correctness, Results, Roofline, Row, StageName

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STAGES: Final = get_args(StageName)


def row_cells(results: Results) -> dict[str, Cell]:
    """Return row id -> the row as tables and legends name it; a wrong row is called wrong everywhere."""
    return {
        row.id: Cell(
            f"{row.name} (wrong)" if row.status == "wrong" else row.name,
            key=_key(place),
            colour=place % 8,
            hollow=row.status == "wrong",
        )
        for place, row in enumerate(results.rows)
    }


def _key(place: int) -> str:
    """Return A to Z, then AA, AB, ..."""
    first, second = divmod(place, 26)
    return (_key(first - 1) if first else "") + chr(ord("A") + second)


def stage_cell(name: str) -> Cell:
    """Return a stage as figures and tables name it, by its place in a detection."""
    place = _STAGES.index(name)
    return Cell(name, key=str(place + 1), colour=place % 8)


def _measured(results: Results) -> list[tuple[Row, Cell]]:
    cells = row_cells(results)
    return [(row, cells[row.id]) for row in results.rows if row.status in ("ok", "wrong")]


def ratio_figures(results: Results) -> list[Figure]:
    """Return times eager's speed: a box for each row that is right, and the null pair."""
    measured = [(cell, ratio_of(row, head_measure(results, row))) for row, cell in _measured(results)]
    found = [(cell, ratio) for cell, ratio in measured if ratio is not None]
    if not found:
        return []
    null, noise = results.noise.null, results.noise.noise
    if null is not None:
        found.append((Cell("one row run as two (null pair)", key="=", colour=7, hollow=True), null))

    def draw(axes: Axes) -> None:
        drawing.scale(axes, "x", "times eager", [1.0, *(ratio.max for _, ratio in found)], log=False)
        drawing.mark(axes, 1, around=noise or 0.0)
        for place, (cell, ratio) in enumerate(found):
            drawing.box(axes, place, cell, (ratio.min, ratio.low, ratio.median, ratio.high, ratio.max))
        drawing.name_rows(axes, [(cell, f"{ratio.median:.2f}x") for cell, ratio in found])

    label = "; ".join(f"{cell.text}: {ratio_text(ratio)}" for cell, ratio in found)
    shade = "" if noise is None else " The shaded band is the noise of this run."
    columns = ("candidate", "median", "low", "high", "slowest round", "fastest round", "rounds")
    rows: list[TableRow] = [
        (cell, *(f"{v:.2f}" for v in (r.median, r.low, r.high, r.min, r.max)), str(r.rounds)) for cell, r in found
    ]
    return [
        Figure(
            "Times as fast as eager",
            "Stroke: median of the rounds. Box: the interval that the table states. Line: slowest to fastest round."
            f" Dashed: eager.{shade} Wrong rows are not drawn.",
            drawing.svg(draw, f"Times as fast as eager. {label}", rows=len(found)),
            table=Table("Times as fast as eager, by rounds", columns, rows),
        )
    ]


def latency_figures(results: Results) -> list[Figure]:
    """Return the distributions of the times of calls, image to boxes: in milliseconds, and by their own medians."""
    found: list[tuple[Cell, list[float], list[float]]] = []  # the sorted times of a row's calls, and their quartiles
    rows: list[TableRow] = []
    for row, cell in _measured(results):
        measure = head_measure(results, row)
        times = sorted(time for of_round in measure.rounds_ms for time in of_round) if measure is not None else []
        if measure is not None and times:
            quartiles = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
            found.append((cell, times, quartiles))
            shown = (times[0], *quartiles, measure.p90_ms, measure.p99_ms, times[-1])
            rows.append((cell, str(len(times)), *map(number, shown)))
    if not found:
        return []

    def draw(axes: Axes, *, relative: bool) -> None:
        each = [(cell, times, quartiles, quartiles[1] if relative else 1.0) for cell, times, quartiles in found]
        ends = [end / by for _, times, _, by in each for end in (times[0], times[-1])]
        if relative:
            drawing.scale(axes, "x", "times the row's median", ends, low=min(0.95, *ends), log=False)
        else:
            drawing.scale(axes, "x", "milliseconds a call", ends)
        for place, (cell, times, quartiles, by) in enumerate(each):
            drawing.dots(axes, place, cell, [time / by for time in times])
            drawing.box(axes, place, cell, [time / by for time in (times[0], *quartiles, times[-1])])
        texts = [f"{t[-1] / by:.2f}x" if relative else f"{number(q[1])} ms" for _, t, q, by in each]
        drawing.name_rows(axes, [(cell, text) for (cell, *_), text in zip(each, texts, strict=True)])

    calls = "; ".join(f"{c.text}: {len(t)} calls, median {number(q[1])} ms" for c, t, q in found)
    slowest = "; ".join(f"{cell.text}: {times[-1] / quarters[1]:.2f}x" for cell, times, quarters in found)
    images = "one image" if first_batch(results) == 1 else f"{first_batch(results)} images"
    heads = ("candidate", "calls", "fastest", "quartile", "median", "quartile", "p90", "p99", "slowest")
    return [
        Figure(
            "Latency, image to boxes",
            f"A dot is a call of {images}, at most 120 a row. Box: the middle half. Stroke: median,"
            " written on the right. Hollow: a wrong row.",
            drawing.svg(partial(draw, relative=False), f"Latency. {calls}", rows=len(found)),
            table=Table("Times of calls, ms", heads, rows),
        ),
        Figure(
            "Steadiness: times by each row's own median",
            "The same calls, so that slow and fast rows can be compared. Written on the right: the slowest call.",
            drawing.svg(partial(draw, relative=True), f"The slowest call by the median. {slowest}", rows=len(found)),
        ),
    ]


def batch_figures(results: Results) -> list[Figure]:
    """Return images per second against the batch, for rows measured at several sizes."""
    measured = [
        (cell, {m.batch: m.fps for m in row.measures if m.scope == "images"}) for row, cell in _measured(results)
    ]
    found = [(cell, dict(sorted(fps.items()))) for cell, fps in measured if len(fps) > 1]
    if not found:
        return []
    batches = sorted({batch for _, fps in found for batch in fps})
    points = [(cell, [(float(b), value, value, value) for b, value in fps.items()]) for cell, fps in found]
    rows: list[TableRow] = [(cell, *(number(fps.get(batch)) for batch in batches)) for cell, fps in found]
    return [
        Figure(
            "Throughput against the batch",
            "Image to boxes. Higher is better; a flat line gains nothing from larger batches.",
            drawing.lines(points, x="images in a batch", y="images per second", ticks=batches),
            [cell for cell, _ in found],
            Table("Images per second", ("candidate", *(f"batch {b}" for b in batches)), rows),
        )
    ]


def stage_figures(results: Results) -> list[Figure]:
    """Return where the time of an image goes, stage by stage."""
    found = [(cell, {s.name: s for s in row.stages}) for row, cell in _measured(results) if row.stages]
    if not found:
        return []
    names = [name for name in _STAGES if any(name in stages for _, stages in found)]
    totals = [number(sum(stage.ms for stage in stages.values())) for _, stages in found]
    drawn, rows = [], list[TableRow]()
    for (cell, stages), total in zip(found, totals, strict=True):
        drawn.append((cell, f"{total} ms", [(stage_cell(name), stage.ms) for name, stage in stages.items()]))
        texts = {name: f"{number(stage.ms)} ({percent(stage.share, 0)})" for name, stage in stages.items()}
        rows.append((cell, *(texts.get(name, NONE) for name in names), total))
    label = "; ".join(f"{cell.text}: {total}" for cell, total, _ in drawn)
    return [
        Figure(
            "Where the time of an image goes",
            "Medians of each stage, one image at a time. Decoding is no part of “image to boxes”, which starts from"
            " decoded images.",
            drawing.bars(drawn, unit="milliseconds an image", label=f"Time by stage; the sums are {label}"),
            [stage_cell(name) for name in names],
            Table("Milliseconds (share) by stage", ("candidate", *names, "sum"), rows),
        )
    ]


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

    def figure(title: str, note: str, unit: str, values: list[float], **axis: Any) -> Figure:
        def draw(axes: Axes) -> None:
            drawing.scale(axes, "x", "p50 in milliseconds", [*eager, *(time for _, time, _ in found)])
            drawing.scale(axes, "y", unit, values, **axis)
            for time in eager:
                drawing.mark(axes, time)
            low = axes.get_ylim()[0]  # a difference of 0 has no place on a logarithmic scale
            points = [(time, max(value, low), cell) for (cell, time, _), value in zip(found, values, strict=True)]
            drawing.letters(axes, points)

        label = f"{title}. The numbers are in the tables of rows and of detections against eager's"
        note = f"{note} Hollow: wrong. Dashed: eager fp32."
        return Figure(title, note, drawing.svg(draw, label), [cell for cell, _, _ in found])

    shares = [100 * agreement(check) for _, _, check in found]
    return [
        figure(
            "Speed against detections that agree",
            "Share of detections that eager and the row have in common, within the limits. Up and left is better.",
            "% of detections that agree",
            shares,
            low=next((foot for foot in (99.0, 95.0, 90.0, 75.0, 50.0) if min(shares) > foot), 0.0),
            high=100.0,
            log=False,
        ),
        figure(
            "Speed against the largest difference of a box",
            "Among the pairs of one label. Down and left is better.",
            "pixels of the image",
            [check.box_px for _, _, check in found],
            log=True,
            margin=1.6,
        ),
    ]


def curve_figures(results: Results) -> list[Figure]:
    """Return cost curves, one figure for each thing that grows."""
    cells = {row.id: cell for row, cell in _measured(results)}
    found = [curve for curve in results.curves if curve.row in cells and curve.points]
    figures = []
    for kind in dict.fromkeys(curve.kind for curve in found):
        curves = [curve for curve in found if curve.kind == kind]
        unit = curves[0].unit
        notes = " ".join(dict.fromkeys(curve.note for curve in curves if curve.note))
        points = [(cells[c.row], [(p.x, p.median_ms, p.low_ms, p.high_ms) for p in c.points]) for c in curves]
        rows: list[TableRow] = [
            (cells[c.row], tick(p.x), *map(number, (p.median_ms, p.low_ms, p.high_ms, p.fps)))
            for c in curves
            for p in c.points
        ]
        columns = ("candidate", unit, "median ms", "quartile", "quartile", "images/s")
        figures.append(
            Figure(
                f"Cost against {'the batch' if kind == 'batch' else kind}",
                "Medians, with a bar from quartile to quartile.",
                drawing.lines(points, x=unit, y="milliseconds a call"),
                [cell for cell, _ in points],
                Table(f"Milliseconds a call. {notes}" if notes else "Milliseconds a call", columns, rows),
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
        drawing.scale(axes, "x", "FLOP per byte", x, log=True, margin=3)
        low, high = axes.get_xlim()
        y = [*(rate for _, _, rate in reached), *rates.values(), copy * low]
        drawing.scale(axes, "y", "GFLOP/s", [value / 1e9 for value in y], log=True, margin=1.5)
        for rate in rates.values():
            axes.plot([low, rate / copy, high], [copy * low / 1e9, rate / 1e9, rate / 1e9], color=drawing.INK)
        drawing.letters(axes, [(intensity, rate / 1e9, cell) for cell, intensity, rate in reached])

    # a stage's roof is that of the row's precision, where that was measured
    peak = None if row is None else rates.get(row.precision)
    rows: list[TableRow] = [
        (cell, *map(number, (intensity, rate / 1e9)), percent(peak and rate / min(peak, copy * intensity), 0))
        for cell, intensity, rate in reached
    ]
    text = "; ".join(f"{precision} {number(rate / 1e9)} GFLOP/s" for precision, rate in rates.items()) or NONE
    profiled = "No row of this device was profiled." if row is None else f"Numbers: stages of {row.name}."
    columns = ("stage", "FLOP per byte", "GFLOP/s", "of its roof")
    return Figure(
        f"Roofline of the {device}",
        f"Measured in the same run: a copy of {number(copy / 1e9)} GB/s (the slope) and matrix products of {text}"
        f" (the roofs). {profiled} A stage without matrix products has no place here.",
        drawing.svg(draw, f"Roofline of the {device}: {text}; copy {number(copy / 1e9)} GB/s"),
        [cell for cell, _, _ in reached],
        None if row is None or not reached else Table(f"Stages of {row.name}", columns, rows),
    )
