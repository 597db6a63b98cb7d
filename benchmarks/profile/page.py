"""A profile for people to read: its stages and slowest layers on the terminal, and as a page with figures."""

from __future__ import annotations

from collections.abc import Sequence

from frcnn.benchmarks.profile.profile import LayerTime, Profile, StageTime
from frcnn.benchmarks.report.document import Block, Cell, Document, Figure, Headline, Paragraph, Table, TableRow
from frcnn.benchmarks.report.drawing import bars
from frcnn.benchmarks.report.formatting import NONE, listing, number, percent, size_text
from frcnn.benchmarks.report.write import html
from frcnn.console import say, show_table


def show_profile(profile: Profile, *, top: int) -> None:
    """Print the stages, the ``top`` slowest layers, and the profiler's overhead."""
    what = f"{profile.architecture}, {profile.precision}, canvas {size_text(profile.canvas)}, batch {profile.batch}"
    say(f"{what}; medians of {profile.repeats} runs, {profile.runtime} on {profile.device}")
    columns = ("stage", "ms", "share", "layers", "GFLOP", "GFLOP/s")
    total = ("total", number(profile.total_ms), percent(1.0), str(len(profile.layers)), "", "")
    show_table("stages", columns, [*map(_stage_cells, profile.stages), total])
    cells = map(_layer_cells, profile.layers[:top])
    slowest = [(name, ms, share, stage, op, *work) for name, op, stage, ms, share, *work in cells]
    title = f"the slowest {len(slowest)} of {len(profile.layers)} layers"
    show_table(title, ("layer", "ms", "share", "stage", "op", "GFLOP", "GFLOP/s"), slowest, text_columns=(0, 3, 4))
    say(_cost_of_looking(profile))


def profile_page(profile: Profile, *, top: int) -> str:
    """Return the page: stages, and the ``top`` slowest layers as a figure and a table."""
    keys = {s.name: Cell(s.name, key=str(n + 1), colour=n % 8) for n, s in enumerate(profile.stages)}
    layers = profile.layers[:top]
    stage_rows: list[TableRow] = [(keys[s.name], *(x or NONE for x in _stage_cells(s)[1:])) for s in profile.stages]
    layer_rows: list[TableRow] = [tuple(text or NONE for text in _layer_cells(layer)) for layer in layers]
    stages = Figure(
        "Milliseconds by stage",
        "In the order that data flows. “Between layers” is what the network took beyond the sum of its layers.",
        _bars("stages", [(keys[stage.name], stage) for stage in profile.stages]),
        table=Table("Stages", ("stage", "ms", "share", "layers", "GFLOP", "GFLOP/s"), stage_rows),
    )
    slowest = Figure(
        f"The slowest {len(layers)} of {len(profile.layers)} layers",
        "Numbers and colours are those of the stages.",
        _bars("layers", [(keys[x.stage]._replace(text=x.name), x) for x in layers]),
        list(keys.values()),
        Table("Layers", ("layer", "op", "stage", "ms", "share", "GFLOP", "GFLOP/s"), layer_rows, text_columns=3),
    )
    title = f"Where the time of {profile.architecture} goes"
    subtitle = f"{profile.environment.cpu}, {profile.environment.date}"
    sections: dict[str, Sequence[Block]] = {
        "Stages": (stages,),
        "Layers": (slowest,),
        "How it was measured": _method(profile),
    }
    return html(Document(title, subtitle, _headline(profile), sections))


def _headline(profile: Profile) -> Headline:
    slowest = max(profile.stages, key=lambda stage: stage.ms)
    notes = [f"Canvas {size_text(profile.canvas)}, batch {profile.batch}, {profile.precision}."]
    notes += [f"The slowest layer is {layer.name}: {_value(layer)}." for layer in profile.layers[:1]]
    start = "file" if any(stage.name == "decode" for stage in profile.stages) else "decoded image"
    text = f"from {start} to boxes, the profiler on. {percent(slowest.share, 0)} of it: {slowest.name}."
    return Headline(f"{number(profile.total_ms)} ms", text, notes, "plain")


def _method(profile: Profile) -> tuple[Paragraph, ...]:
    names = [*profile.images[:3], *([f"{len(profile.images) - 3} more"] if len(profile.images) > 3 else [])]
    source = "" if profile.source == "given" else f" ({profile.source})"
    cost = _cost_of_looking(profile)
    return (
        Paragraph(
            f"{profile.runtime} on {profile.device}, {profile.environment.threads} processor threads; medians of "
            f"{profile.repeats} runs after one that warmed up. Images: {listing(names)}{source}."
        ),
        Paragraph(f"{cost[0].upper()}{cost[1:]}."),
        Paragraph(profile.environment.command, "code"),
    )


def _bars(name: str, items: Sequence[tuple[Cell, StageTime | LayerTime]]) -> str:
    rows = [(cell, _value(item), [(cell, item.ms)]) for cell, item in items]
    label = "; ".join(f"{cell.text}: {value}" for cell, value, _ in rows)
    return bars(rows, unit="milliseconds", label=f"Milliseconds by {name}. {label}")


def _value(item: StageTime | LayerTime) -> str:
    return f"{number(item.ms)} ms, {percent(item.share)}"


def _cost_of_looking(profile: Profile) -> str:
    """Return a sentence on the profiler's overhead, in all and by layer: small layers look that much larger."""
    more = profile.profiled_ms - profile.network_ms
    a_layer = f", {1e3 * more / len(profile.layers):.1f} us a layer" if profile.layers else ""
    return (
        f"the network takes {number(profile.network_ms)} ms without the profiler and {number(profile.profiled_ms)} ms"
        f" with it ({more / profile.network_ms:+.0%}{a_layer})"
    )


def _stage_cells(stage: StageTime) -> tuple[str, ...]:
    """Return a stage's row of a table; what is not known is empty."""
    return stage.name, number(stage.ms), percent(stage.share), str(stage.layers or ""), *_work_cells(stage)


def _layer_cells(layer: LayerTime) -> tuple[str, ...]:
    """Return a layer's row of a table; what is not known is empty."""
    return layer.name, layer.op, layer.stage, number(layer.ms), percent(layer.share), *_work_cells(layer)


def _work_cells(item: StageTime | LayerTime) -> list[str]:
    return ["" if value is None else number(value) for value in (item.gflop, item.gflop_per_s)]
