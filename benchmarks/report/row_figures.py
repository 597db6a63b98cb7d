"""Charts in which every row has a line of its own; each is None where the run has nothing to draw."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import quantiles
from typing import Final

from frcnn.benchmarks.report.axes import Axis
from frcnn.benchmarks.report.charts import COLOURS, Bar, Segment, Track, Written, legend, stacked, tracks
from frcnn.benchmarks.report.document import Figure, Table, TableRow
from frcnn.benchmarks.report.drawn import Drawn, drawn_rows
from frcnn.benchmarks.report.formatting import NONE, ms, percent, ratio_text, tick
from frcnn.benchmarks.report.markup import join
from frcnn.benchmarks.report.ranking import first_batch, head_measure, ratio_of
from frcnn.benchmarks.report.results import Measure, Ratio, Results

__all__ = ["latency_figures", "ratio_figure", "stage_figure", "stage_names"]

_MAX_DOTS: Final = 120
_NULL_NAME: Final = "one row run as two (null pair)"


def ratio_figure(results: Results) -> Figure | None:
    """Return times eager's speed: one box per row that is right, and the null pair."""
    lines: list[Track] = []
    rows: list[TableRow] = []
    for drawn in drawn_rows(results):
        ratio = ratio_of(drawn.row, head_measure(results, drawn.row))
        if ratio is None:
            continue
        rows.append((drawn.cell(), *_ratio_cells(ratio)))
        says = f"{drawn.name}: {ratio_text(ratio)}; rounds from {ratio.min:.2f} to {ratio.max:.2f}"
        lines.append(
            Track(
                key=drawn.key,
                colour=drawn.colour,
                name=drawn.name,
                value=f"{ratio.median:.2f}x",
                says=says,
                whole=(ratio.min, ratio.max),
                inner=(ratio.low, ratio.high),
                middle=ratio.median,
            )
        )
    if not lines:
        return None
    noise = results.noise
    if noise.null is not None:
        null = noise.null
        rows.append((_NULL_NAME, *_ratio_cells(null)))
        lines.append(
            Track(
                key="=",
                colour=COLOURS - 1,
                name=_NULL_NAME,
                value=f"{null.median:.2f}x",
                says=f"the null pair: {ratio_text(null)}",
                whole=(null.min, null.max),
                inner=(null.low, null.high),
                middle=null.median,
                hollow=True,
            )
        )
    axis = Axis.linear([line.whole[1] for line in lines] + [1.0])
    band = (1 - noise.noise, 1 + noise.noise, "within the noise of this run") if noise.noise is not None else None
    shade = " The shaded band is the noise of this run." if band else ""
    return Figure(
        title="Times as fast as eager",
        note="Stroke: median of the rounds. Box: the interval that the table states. Line: slowest to fastest round."
        f" Dashed: eager.{shade} Wrong rows are not drawn.",
        drawing=tracks(lines, axis, written=lambda v: f"{tick(v)}x", unit="times eager", band=band, mark=1.0),
        table=Table(
            caption="Times as fast as eager, by rounds",
            columns=("way", "median", "low", "high", "slowest round", "fastest round", "rounds"),
            rows=tuple(rows),
        ),
    )


def _ratio_cells(ratio: Ratio) -> tuple[str, ...]:
    figures = (ratio.median, ratio.low, ratio.high, ratio.min, ratio.max)
    return *(f"{figure:.2f}" for figure in figures), str(ratio.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """The times of a row's calls in milliseconds, rising, and their quartiles."""

    drawn: Drawn
    measure: Measure
    samples: tuple[float, ...]
    low: float
    middle: float
    high: float

    def track(self, unit_ms: float, written: Written) -> Track:
        """Return its line of a chart that counts in ``unit_ms``."""
        samples = [sample / unit_ms for sample in self.samples]
        low, middle, high = (end / unit_ms for end in (self.low, self.middle, self.high))
        return Track(
            key=self.drawn.key,
            colour=self.drawn.colour,
            name=self.drawn.name,
            value=written(middle if unit_ms == 1 else samples[-1]),
            says=f"{self.drawn.name}: {len(samples)} calls, median {written(middle)}, quartiles {written(low)} and"
            f" {written(high)}, fastest {written(samples[0])}, slowest {written(samples[-1])}",
            whole=(samples[0], samples[-1]),
            inner=(low, high),
            middle=middle,
            # counted from the slowest, which so stays in sight
            dots=tuple(samples[:: -max(1, ceil(len(samples) / _MAX_DOTS))]),
            hollow=self.drawn.hollow,
        )

    def cells(self) -> TableRow:
        """Return its line of the table."""
        measure = self.measure
        ends = (self.samples[0], self.low, self.middle, self.high, measure.p90_ms, measure.p99_ms, self.samples[-1])
        return self.drawn.cell(), str(len(self.samples)), *(ms(value) for value in ends)


def _calls(results: Results) -> list[_Calls]:
    found = []
    for drawn in drawn_rows(results):
        measure = head_measure(results, drawn.row)
        samples = sorted(t for of_round in measure.rounds_ms for t in of_round) if measure is not None else []
        if measure is None or not samples:
            continue
        low, middle, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        found.append(_Calls(drawn=drawn, measure=measure, samples=tuple(samples), low=low, middle=middle, high=high))
    return found


def latency_figures(results: Results) -> list[Figure]:
    """Return the distributions of the times of calls, image to boxes: in milliseconds, and by their own medians."""
    found = _calls(results)
    if not found:
        return []
    batch = first_batch(results)
    heads = ("fastest", "quartile", "median", "quartile", "p90", "p99", "slowest")
    dots = f"A dot is a call of {'one image' if batch == 1 else f'{batch} images'}, at most {_MAX_DOTS} a row."
    times = [calls.track(1.0, lambda value: f"{ms(value)} ms") for calls in found]
    shapes = [calls.track(calls.middle, lambda value: f"{value:.2f}x") for calls in found]
    shape = Axis.linear(
        [track.whole[1] for track in shapes], low=min(0.95, *(track.whole[0] for track in shapes), 0.95)
    )
    return [
        Figure(
            title="Latency, image to boxes",
            note=f"{dots} Box: the middle half. Stroke: median, written on the right. Hollow: a wrong row.",
            drawing=tracks(
                times,
                Axis.fitted([end for track in times for end in track.whole]),
                written=tick,
                unit="milliseconds a call",
            ),
            table=Table(
                caption="Times of calls, ms", columns=("way", "calls", *heads), rows=tuple(c.cells() for c in found)
            ),
        ),
        Figure(
            title="Steadiness: times by each row's own median",
            note="The same calls, so that slow and fast rows can be compared. Written on the right: the slowest call.",
            drawing=tracks(shapes, shape, written=lambda value: f"{tick(value)}x", unit="times the row's median"),
            table=None,
        ),
    ]


def stage_figure(results: Results) -> Figure | None:
    """Return where the time of an image goes, stage by stage."""
    rows = [drawn for drawn in drawn_rows(results) if drawn.row.stages]
    if not rows:
        return None
    names = stage_names(results)
    bars: list[Bar] = []
    table: list[TableRow] = []
    for drawn in rows:
        of = {stage.name: stage for stage in drawn.row.stages}
        segments = [
            Segment(
                key=str(names.index(stage.name) + 1),
                colour=names.index(stage.name) % COLOURS,
                length=stage.ms,
                says=f"{stage.name}: {ms(stage.ms)} ms, {percent(stage.share)}",
            )
            for stage in drawn.row.stages
        ]
        total = sum(stage.ms for stage in drawn.row.stages)
        bars.append(
            Bar(key=drawn.key, colour=drawn.colour, name=drawn.name, value=f"{ms(total)} ms", segments=tuple(segments))
        )
        cells = (f"{ms(of[n].ms)} ({percent(of[n].share, 0)})" if n in of else NONE for n in names)
        table.append((drawn.cell(), *cells, ms(total)))
    axis = Axis.linear([sum(s.length for s in bar.segments) for bar in bars])
    entries = [(str(place + 1), place % COLOURS, name, False) for place, name in enumerate(names)]
    return Figure(
        title="Where the time of an image goes",
        note="Medians of each stage, one image at a time. Decoding is no part of “image to boxes”, which"
        " starts from decoded images.",
        drawing=join(stacked(bars, axis, written=tick, unit="milliseconds an image"), legend(entries)),
        table=Table(caption="Milliseconds (share) by stage", columns=("way", *names, "sum"), rows=tuple(table)),
    )


def stage_names(results: Results) -> list[str]:
    """Return the stages that any row has, in the order of an image's way."""
    order = ("decode", "preprocess", "backbone+FPN", "RPN", "RoI pooling", "box head", "post")
    there = {stage.name for row in results.rows for stage in row.stages}
    if results.roofline is not None:
        there |= {work.stage for work in results.roofline.work}
    return [name for name in order if name in there]
