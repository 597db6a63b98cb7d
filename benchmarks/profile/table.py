"""A profile on the terminal."""

from __future__ import annotations

from frcnn.benchmarks.profile.profile import LayerTime, Profile, StageTime
from frcnn.benchmarks.report.formatting import number, percent, size_text
from frcnn.console import say, show_table

__all__ = ["cost_of_looking", "layer_cells", "show_profile", "stage_cells"]


def show_profile(profile: Profile, *, top: int) -> None:
    """Print the stages, the ``top`` slowest layers, and the profiler's overhead."""
    what = f"{profile.architecture}, {profile.precision}, canvas {size_text(profile.canvas)}, batch {profile.batch}"
    say(f"{what}; medians of {profile.repeats} runs, {profile.runtime} on {profile.device}")
    columns = ("stage", "ms", "share", "layers", "GFLOP", "GFLOP/s")
    total = ("total", number(profile.total_ms), percent(1.0), str(len(profile.layers)), "", "")
    show_table("stages", columns, [*map(stage_cells, profile.stages), total])
    slowest = [layer_cells(layer) for layer in profile.layers[:top]]
    title = f"the slowest {len(slowest)} of {len(profile.layers)} layers"
    show_table(title, ("layer", "op", "stage", "ms", "share", "GFLOP", "GFLOP/s"), slowest, text_columns=3)
    say(cost_of_looking(profile))


def cost_of_looking(profile: Profile) -> str:
    """Return a sentence on the profiler's overhead, in all and by layer: small layers look that much larger."""
    more = profile.profiled_ms - profile.network_ms
    a_layer = f", {1e3 * more / len(profile.layers):.1f} us a layer" if profile.layers else ""
    return (
        f"the network takes {number(profile.network_ms)} ms without the profiler and {number(profile.profiled_ms)} ms"
        f" with it ({more / profile.network_ms:+.0%}{a_layer})"
    )


def stage_cells(stage: StageTime) -> tuple[str, ...]:
    """Return a stage's row of a table; what is not known is empty."""
    return stage.name, number(stage.ms), percent(stage.share), str(stage.layers or ""), *_work(stage)


def layer_cells(layer: LayerTime) -> tuple[str, ...]:
    """Return a layer's row of a table; what is not known is empty."""
    return layer.name, layer.op, layer.stage, number(layer.ms), percent(layer.share), *_work(layer)


def _work(item: StageTime | LayerTime) -> list[str]:
    return ["" if value is None else number(value) for value in (item.gflop, item.gflop_per_s)]
