"""A run on the terminal."""

from __future__ import annotations

from collections.abc import Callable

from frcnn.benchmarks.report.results import Measure, Results, Row, Scope
from frcnn.console import say, show_table

__all__ = ["show_results"]

_TITLES: dict[Scope, str] = {
    "images": "decoded images to boxes",
    "network": "the network only",
}


def show_results(results: Results) -> None:
    """Print rows, what could not run, noise and changes."""
    w, e = results.workload, results.environment
    canvases = ", ".join(f"{height}x{width}" for height, width in w.canvases)
    say(f"{w.model}, {w.num_classes} classes, {len(w.images)} images ({w.source}), canvases {canvases}")
    say(f"{e.cpu}, {e.threads} threads of {len(e.affinity)} cores" + (f"; {e.gpu.name}" if e.gpu else ""))
    batches = sorted({m.batch for row in results.rows for m in row.measures})
    for scope in ("images", "network"):
        for batch in batches:
            _show_measures(results, scope, batch)
    _show_rows(results)
    for row in results.rows:
        if row.status != "ok":
            say(f"{row.status.upper()}: {row.name}: {row.reason}")
    for item in w.skipped:
        say(f"SKIPPED: {item.name}: {item.reason}")
    _show_noise(results)
    _show_comparison(results)
    if results.partial:
        say(f"PARTIAL: {results.partial_reason}")


def _show_measures(results: Results, scope: Scope, batch: int) -> None:
    found = [(row, m) for row in results.rows if (m := row.measure(scope, batch)) is not None]
    if not found:
        return
    columns = ("way", "status", "p50 ms", "p90", "p99", "mean", "fps", "x eager", "spread", "rounds")
    cells = [_cells(row, m) for row, m in found]
    show_table(f"{_TITLES[scope]}, batch {batch}", columns, cells, text_columns=2)


def _cells(row: Row, m: Measure) -> tuple[str, ...]:
    times = tuple(f"{value:.4g}" for value in (m.p50_ms, m.p90_ms, m.p99_ms, m.mean_ms, m.fps))
    rounds = str(len(m.rounds_ms))
    if row.status != "ok":  # a wrong answer is no gain, however quick it is
        return row.name, row.status, *times, "wrong", "", rounds
    if m.ratio is None:
        return row.name, row.status, *times, "1", "", rounds
    return row.name, row.status, *times, f"{m.ratio.median:.2f}", f"{m.ratio.min:.2f} to {m.ratio.max:.2f}", rounds


def _show_rows(results: Results) -> None:
    columns = (
        "way",
        "status",
        "precision",
        "file MB",
        "build s",
        "load s",
        "host MB",
        "GPU MB",
        "box px",
        "of roofline",
    )
    cells = [
        (
            row.name,
            row.status,
            row.precision,
            _cell(row.artifact.size_bytes / 1e6 if row.artifact else None, "{:.1f}"),
            _cell(row.build_s, "{:.1f}"),
            _cell(row.load_s, "{:.2f}"),
            _cell(row.peak_host_bytes, "{:.0f}", lambda b: b / 1e6),
            _cell(row.peak_gpu_bytes, "{:.0f}", lambda b: b / 1e6),
            _cell(row.correctness.box_px if row.correctness else None, "{:.2g}"),
            _cell(row.of_roofline, "{:.0%}"),
        )
        for row in results.rows
    ]
    show_table("rows", columns, cells, text_columns=3)


def _cell(value: float | None, text: str, scale: Callable[[float], float] = lambda value: value) -> str:
    return "" if value is None else text.format(scale(value))


def _show_noise(results: Results) -> None:
    noise = results.noise
    if noise.noise is None:
        return
    say(f"noise: {noise.row} against itself differs by up to {noise.noise:.1%}")
    if noise.too_noisy:
        say(f"TOO NOISY: above {noise.limit:.0%}, differences between rows should not be trusted; quiet the system")
    pairs = [p for p in noise.not_told_apart if (p.scope, p.batch) == ("images", 1)]
    for pair in pairs:
        say(f"not told apart (batch 1): {pair.first} and {pair.second}")


def _show_comparison(results: Results) -> None:
    comparison = results.comparison
    if comparison is None:
        return
    rows = [
        (
            c.name,
            "" if c.scope is None else f"{c.scope}, batch {c.batch}",
            c.what,
            c.old,
            c.new,
            "" if c.change is None else f"{c.change:+.1%}",
            c.verdict,
            c.reason,
        )
        for c in comparison.changes
    ]
    columns = ("way", "measure", "what", "then", "now", "change", "verdict", "why")
    show_table(f"against {comparison.file}, limit {comparison.limit:.1%}", columns, rows, text_columns=3)
    for line in comparison.notes:
        say(f"differs: {line}")
