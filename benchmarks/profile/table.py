"""A profile on the terminal."""

from __future__ import annotations

from frcnn.benchmarks.profile.profile import LayerTime, Profile, StageTime
from frcnn.benchmarks.report.formatting import ms, number, percent, size_text
from frcnn.console import say, show_table

__all__ = ["cost_of_looking", "show_profile"]


def show_profile(profile: Profile, *, top: int) -> None:
    """Print the stages, the ``top`` slowest layers, and the profiler's overhead."""
    what = f"{profile.architecture}, {profile.precision}, canvas {size_text(profile.canvas)}, batch {profile.batch}"
    say(f"{what}; medians of {profile.repeats} runs, {profile.runtime} on {profile.device}")
    columns = ("stage", "ms", "share", "layers", "GFLOP", "GFLOP/s")
    stages = [(x.name, ms(x.ms), percent(x.share), str(x.layers or ""), *_work(x)) for x in profile.stages]
    total = ("total", ms(profile.total_ms), percent(1.0), str(len(profile.layers)), "", "")
    show_table("stages", columns, [*stages, total])
    slowest = [(x.name, x.op, x.stage, ms(x.ms), percent(x.share), *_work(x)) for x in profile.layers[:top]]
    title = f"the slowest {len(slowest)} of {len(profile.layers)} layers"
    show_table(title, ("layer", "op", "stage", "ms", "share", "GFLOP", "GFLOP/s"), slowest, text_columns=3)
    say(cost_of_looking(profile))


def cost_of_looking(profile: Profile) -> str:
    """Return a sentence on the profiler's overhead, in all and by layer: small layers look that much larger."""
    more = profile.profiled_ms - profile.network_ms
    a_layer = f", {1e3 * more / len(profile.layers):.1f} us a layer" if profile.layers else ""
    return (
        f"the network takes {ms(profile.network_ms)} ms without the profiler and {ms(profile.profiled_ms)} ms with it "
        f"({more / profile.network_ms:+.0%}{a_layer})"
    )


def _work(item: StageTime | LayerTime) -> list[str]:
    return ["" if value is None else number(value) for value in (item.gflop, item.gflop_per_s)]
