"""The page of a profile: stages and the slowest layers as figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from frcnn.benchmarks.profile.profile import LayerTime, Profile, StageTime
from frcnn.benchmarks.profile.table import cost_of_looking
from frcnn.benchmarks.report.document import Cell, Code, Document, Figure, Headline, Paragraph, Section, Table
from frcnn.benchmarks.report.drawing import COLOURS, bars
from frcnn.benchmarks.report.formatting import NONE, listing, ms, number, percent, size_text
from frcnn.benchmarks.report.write import html

__all__ = ["profile_page"]

_NAMED_IMAGES: Final = 3


def profile_page(profile: Profile, *, top: int) -> str:
    """Return the page: stages, and the slowest layers.

    Args:
        profile: what was measured.
        top: how many layers are drawn; the table under the figure has as many.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    keys = {
        stage.name: Cell(text=stage.name, key=str(place + 1), colour=place % COLOURS)
        for place, stage in enumerate(profile.stages)
    }
    layers = profile.layers[:top]
    stages = Figure(
        title="Milliseconds by stage",
        note="In the order that data flows. “Between layers” is what the network took beyond the sum of its layers.",
        svg=_bars("stages", [(keys[stage.name], stage) for stage in profile.stages]),
        table=Table(
            caption="Stages",
            columns=("stage", "ms", "share", "layers", "GFLOP", "GFLOP/s"),
            rows=tuple(
                (keys[s.name], ms(s.ms), percent(s.share), str(s.layers or NONE), *_work(s)) for s in profile.stages
            ),
        ),
    )
    slowest = Figure(
        title=f"The slowest {len(layers)} of {len(profile.layers)} layers",
        note="Numbers and colours are those of the stages.",
        svg=_bars("layers", [(replace(keys[x.stage], text=x.name), x) for x in layers]),
        legend=tuple(keys.values()),
        table=Table(
            caption="Layers",
            columns=("layer", "op", "stage", "ms", "share", "GFLOP", "GFLOP/s"),
            rows=tuple((x.name, x.op or NONE, x.stage, ms(x.ms), percent(x.share), *_work(x)) for x in layers),
            text_columns=3,
        ),
    )
    return html(
        Document(
            title=f"Where the time of {profile.architecture} goes",
            subtitle=f"{profile.environment.cpu}, {profile.environment.date}",
            headline=_headline(profile),
            sections=(
                Section(name="stages", title="Stages", blocks=(stages,)),
                Section(name="layers", title="Layers", blocks=(slowest,)),
                Section(name="method", title="How it was measured", blocks=_method(profile)),
            ),
        )
    )


def _headline(profile: Profile) -> Headline:
    slowest = max(profile.stages, key=lambda stage: stage.ms)
    notes = [f"Canvas {size_text(profile.canvas)}, batch {profile.batch}, {profile.precision}."]
    if profile.layers:
        layer = profile.layers[0]
        notes.append(f"The slowest layer is {layer.name}: {_value(layer)}.")
    start = "file" if any(stage.name == "decode" for stage in profile.stages) else "decoded image"
    return Headline(
        value=f"{ms(profile.total_ms)} ms",
        text=f"from {start} to boxes, the profiler on. {percent(slowest.share, 0)} of it: {slowest.name}.",
        notes=tuple(notes),
        tone="plain",
    )


def _method(profile: Profile) -> tuple[Paragraph | Code, ...]:
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


def _bars(name: str, items: Sequence[tuple[Cell, StageTime | LayerTime]]) -> str:
    rows = [(cell, _value(item), [(cell, item.ms)]) for cell, item in items]
    label = "; ".join(f"{cell.text}: {value}" for cell, value, _ in rows)
    return bars(rows, unit="milliseconds", label=f"Milliseconds by {name}. {label}")


def _value(item: StageTime | LayerTime) -> str:
    return f"{ms(item.ms)} ms, {percent(item.share)}"


def _work(item: StageTime | LayerTime) -> tuple[str, ...]:
    return tuple(NONE if value is None else number(value) for value in (item.gflop, item.gflop_per_s))
