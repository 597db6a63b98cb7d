"""The roofline: what each stage could reach on the device, and what a row reaches."""

from __future__ import annotations

from typing import Final

from frcnn.benchmarks.report.axes import Axis
from frcnn.benchmarks.report.charts import COLOURS, Mark, legend, plane
from frcnn.benchmarks.report.document import Figure, Table
from frcnn.benchmarks.report.formatting import NONE, number, percent, size_text, tick
from frcnn.benchmarks.report.markup import join
from frcnn.benchmarks.report.ranking import ranked
from frcnn.benchmarks.report.results import Ceilings, Results, Roofline, Row, Work
from frcnn.benchmarks.report.row_figures import stage_names

__all__ = ["ceilings_table", "roofline_figures", "work_table"]


_DEVICES: Final = {"cpu": "CPU", "cuda": "GPU"}


def roofline_figures(results: Results) -> list[Figure]:
    """Return a chart for each device whose ceilings were measured."""
    roofline = results.roofline
    if roofline is None:
        return []
    return [_figure(results, roofline, ceilings) for ceilings in roofline.ceilings if _stages(roofline)]


def ceilings_table(roofline: Roofline) -> Table:
    """Return what the devices can do."""
    rows = [
        (ceilings.device, f"matrix product, {precision}", f"{number(rate / 1e9)} GFLOP/s")
        for ceilings in roofline.ceilings
        for precision, rate in ceilings.matmul_flops_per_s.items()
    ]
    rows += [(one.device, "copy", f"{number(one.copy_bytes_per_s / 1e9)} GB/s") for one in roofline.ceilings]
    return Table(caption="Ceilings, measured in the run", columns=("device", "what", "rate"), rows=tuple(rows), texts=2)


def work_table(results: Results, roofline: Roofline) -> Table:
    """Return what each stage has to do, counted from the graph."""
    names = stage_names(results)
    rows = tuple(
        (
            work.stage if work.stage not in names else f"{names.index(work.stage) + 1}. {work.stage}",
            number(work.flops / 1e9),
            number(work.bytes / 1e6),
            number(work.flops / work.bytes) if work.bytes else NONE,
        )
        for work in roofline.work
    )
    return Table(
        caption=f"Work of one image on a canvas of {size_text(roofline.canvas)}, counted from the graph",
        columns=("stage", "GFLOP", "MB", "FLOP per byte"),
        rows=rows,
    )


def _stages(roofline: Roofline) -> list[Work]:
    return [work for work in roofline.work if work.flops > 0 and work.bytes > 0]


def _row_of(results: Results, device: str) -> Row | None:
    """Return the row whose stages are drawn: the fastest right one of the device that has any."""
    candidates = [*ranked(results), *(row for row in results.rows if row.status == "ok")]
    return next((row for row in candidates if row.device == device and row.stages), None)


def _figure(results: Results, roofline: Roofline, ceilings: Ceilings) -> Figure:
    device = _DEVICES.get(ceilings.device, ceilings.device)
    works = _stages(roofline)
    names = stage_names(results)
    row = _row_of(results, ceilings.device)
    took = {} if row is None else {stage.name: stage.ms for stage in row.stages if stage.ms > 0}
    rates = ceilings.matmul_flops_per_s
    reached = [(work, work.flops / took[work.stage] * 1e3) for work in works if work.stage in took]
    turns = [rate / ceilings.copy_bytes_per_s for rate in rates.values()]
    x = Axis.logarithmic([*(work.flops / work.bytes for work in works), *turns], margin=3)
    y = Axis.logarithmic(
        [*(flops for _, flops in reached), *rates.values(), ceilings.copy_bytes_per_s * x.low], margin=1.5
    )
    marks = [
        Mark(
            x=work.flops / work.bytes,
            y=flops,
            key=str(names.index(work.stage) + 1),
            colour=names.index(work.stage) % COLOURS,
            says=f"{work.stage}: {number(flops / 1e9)} GFLOP/s at {number(work.flops / work.bytes)} FLOP per byte",
        )
        for work, flops in reached
    ]
    lines = []
    for rate in rates.values():
        turn = rate / ceilings.copy_bytes_per_s
        lines += [((turn, rate), (x.high, rate), "roof")]
    top = max(rates.values(), default=0.0)
    if top:
        lines.append(((x.low, ceilings.copy_bytes_per_s * x.low), (top / ceilings.copy_bytes_per_s, top), "roof"))
    whose = "No row of this device was profiled." if row is None else f"Numbers: stages of {row.name}."
    ceiling_text = "; ".join(f"{precision} {number(rate / 1e9)} GFLOP/s" for precision, rate in rates.items())
    drawing = plane(
        marks,
        x,
        y,
        says=f"Roofline of the {device}: {ceiling_text}; copy {number(ceilings.copy_bytes_per_s / 1e9)} GB/s",
        x_unit="FLOP per byte",
        y_unit="GFLOP/s, logarithmic",
        x_written=tick,
        y_written=lambda value: tick(value / 1e9),
        lines=lines,
    )
    entries = [
        (str(names.index(work.stage) + 1), names.index(work.stage) % COLOURS, work.stage, False) for work, _ in reached
    ]
    table = Table(
        caption=f"Stages of {row.name}" if row is not None else "No row",
        columns=("stage", "FLOP per byte", "GFLOP/s", "of its roof"),
        rows=tuple(_reached(work, flops, ceilings, row) for work, flops in reached),
    )
    return Figure(
        title=f"Roofline of the {device}",
        note=f"Measured in the same run: a copy of {number(ceilings.copy_bytes_per_s / 1e9)} GB/s (the slope) and"
        f" matrix products of {ceiling_text or NONE} (the roofs). {whose}"
        " A stage without matrix products has no place here.",
        drawing=join(drawing, legend(entries)),
        table=table if reached else None,
    )


def _reached(work: Work, flops: float, ceilings: Ceilings, row: Row | None) -> tuple[str, ...]:
    """Return a stage's line; its roof is that of the row's precision, where that was measured."""
    rate = None if row is None else ceilings.matmul_flops_per_s.get(row.precision)
    intensity = work.flops / work.bytes
    roof = None if rate is None else min(rate, ceilings.copy_bytes_per_s * intensity)
    return work.stage, number(intensity), number(flops / 1e9), NONE if roof is None else percent(flops / roof, 0)
