"""The chart of a profile: a page that needs nothing else, as the report of ``frcnn bench`` is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from frcnn.benchmarks.profile.profile import LayerTime, Profile, StageName, StageTime
from frcnn.benchmarks.profile.table import cost_of_looking
from frcnn.benchmarks.report.axes import Axis
from frcnn.benchmarks.report.charts import COLOURS, Bar, Segment, stacked
from frcnn.benchmarks.report.document import Code, Document, Figure, Headline, Paragraph, Section, Table, TableRow
from frcnn.benchmarks.report.formatting import NONE, listing, ms, number, percent, size_text, tick
from frcnn.benchmarks.report.html_page import html
from frcnn.benchmarks.report.markup import Markup

__all__ = ["profile_page"]

_NAMED_IMAGES: Final = 3


def profile_page(profile: Profile, *, top: int) -> str:
    """Return the page: stages, and the slowest layers.

    Args:
        profile: what was measured.
        top: how many layers are drawn; the table under the drawing has as many.
    """
    return html(
        Document(
            title=f"Where the time of {profile.architecture} goes",
            subtitle=f"{profile.environment.cpu}, {profile.environment.date}",
            headline=_headline(profile),
            sections=(
                Section(name="stages", title="Stages", blocks=(_stages(profile),)),
                Section(name="layers", title="Layers", blocks=(_layers(profile, top),)),
                Section(name="how", title="How it was measured", blocks=_how(profile)),
            ),
        )
    )


def _headline(profile: Profile) -> Headline:
    slowest = max(profile.stages, key=lambda stage: stage.ms)
    layer = profile.layers[0] if profile.layers else None
    remarks = [f"Canvas {size_text(profile.canvas)}, batch {profile.batch}, {profile.precision}."]
    if layer is not None:
        remarks.append(f"The slowest layer is {layer.name}: {ms(layer.ms)} ms, {percent(layer.share)}.")
    start = "file" if any(stage.name == "decode" for stage in profile.stages) else "decoded image"
    return Headline(
        figure=f"{ms(profile.total_ms)} ms",
        text=f"from {start} to boxes, the profiler on. {percent(slowest.share, 0)} of it: {slowest.name}.",
        remarks=tuple(remarks),
        tone="plain",
    )


def _stages(profile: Profile) -> Figure:
    numbers = _numbers(profile)
    bars = [
        _bar(numbers[stage.name], stage.name, _value(stage), stage.ms, f"{stage.name}: {_value(stage)}")
        for stage in profile.stages
    ]
    rows: list[TableRow] = [
        (stage.name, ms(stage.ms), percent(stage.share), str(stage.layers) if stage.layers else NONE, *_work(stage))
        for stage in profile.stages
    ]
    return Figure(
        title="Milliseconds by stage",
        note="In the order that data flows. “Between layers” is what the network took beyond the sum of its layers.",
        drawing=_drawn(bars),
        table=Table(caption="Stages", columns=("stage", "ms", "share", "layers", "GFLOP", "GFLOP/s"), rows=tuple(rows)),
    )


def _layers(profile: Profile, top: int) -> Figure:
    numbers, layers = _numbers(profile), profile.layers[:top]
    bars = [
        _bar(numbers[layer.stage], layer.name, _value(layer), layer.ms, f"{layer.name}, {layer.stage}: {_value(layer)}")
        for layer in layers
    ]
    rows: list[TableRow] = [
        (layer.name, layer.op or NONE, layer.stage, ms(layer.ms), percent(layer.share), *_work(layer))
        for layer in layers
    ]
    return Figure(
        title=f"The slowest {len(layers)} of {len(profile.layers)} layers",
        note="Numbers and colours are those of the stages.",
        drawing=_drawn(bars),
        table=Table(
            caption="Layers",
            columns=("layer", "op", "stage", "ms", "share", "GFLOP", "GFLOP/s"),
            rows=tuple(rows),
            texts=3,
        ),
    )


def _how(profile: Profile) -> tuple[Paragraph | Code, ...]:
    names = [*profile.images[:_NAMED_IMAGES]]
    if len(profile.images) > len(names):
        names.append(f"{len(profile.images) - len(names)} more")
    source = "" if profile.source == "given" else f" ({profile.source})"
    cost = cost_of_looking(profile)
    return (
        Paragraph(
            text=f"{profile.runtime} on {profile.device}, {profile.environment.threads} processor threads; medians of "
            f"{profile.repeats} runs after one that warmed up. Images: {listing(names)}{source}."
        ),
        Paragraph(text=f"{cost[0].upper()}{cost[1:]}."),
        Code(text=profile.environment.command),
    )


def _numbers(profile: Profile) -> dict[StageName, int]:
    return {stage.name: place for place, stage in enumerate(profile.stages, 1)}


def _bar(number_of_stage: int, name: str, value: str, length: float, says: str) -> Bar:
    key, colour = str(number_of_stage), (number_of_stage - 1) % COLOURS
    segment = Segment(key=key, colour=colour, length=length, says=says)
    return Bar(key=key, colour=colour, name=name, value=value, segments=(segment,))


def _drawn(bars: Sequence[Bar]) -> Markup:
    axis = Axis.linear(bar.segments[0].length for bar in bars)
    return stacked(bars, axis, written=tick, unit="milliseconds")


def _value(item: StageTime | LayerTime) -> str:
    return f"{ms(item.ms)} ms, {percent(item.share)}"


def _work(item: StageTime | LayerTime) -> tuple[str, str]:
    gflop, rate = (NONE if value is None else number(value) for value in (item.gflop, item.gflop_per_s))
    return gflop, rate
