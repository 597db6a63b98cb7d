"""A run on the terminal."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from frcnn.benchmarks.report.ranking import headline
from frcnn.benchmarks.report.results import Comparison, Measure, NoiseVerdict, Results, Row, Scope
from frcnn.console import say, show_table

_TITLES: Final[dict[Scope, str]] = {"images": "decoded images to boxes", "network": "the network only"}
_TIMES: Final = ("candidate", "x eager", "p50 ms", "fps", "min to max", "p90", "p99", "mean", "rounds")
_SIZES: Final = ("box px", "file MB", "build s", "load s", "host MB", "GPU MB", "of roofline")
_FACTS: Final = ("candidate", "precision", *_SIZES)
_CHANGES: Final = ("candidate", "verdict", "change", "then", "now", "what", "measure", "why")


def show_results(results: Results) -> None:
    """Print the result in one line, candidates, what could not run, noise and changes."""
    say(headline(results).text)
    w, e = results.workload, results.environment
    canvases = ", ".join(f"{height}x{width}" for height, width in w.canvases)
    say(f"{w.model}, {w.num_classes} classes, {len(w.images)} images ({w.source}), canvases {canvases}")
    say(f"{e.cpu}, {e.threads} threads of {len(e.affinity)} cores" + (f"; {e.gpu.name}" if e.gpu else ""))
    for scope, title in _TITLES.items():
        for batch in sorted({m.batch for row in results.rows for m in row.measures}):
            found = [(row, m) for row in results.rows if (m := row.measure(scope, batch)) is not None]
            if found:
                show_table(f"{title}, batch {batch}", _TIMES, [_times(row, m) for row, m in found])
    ran = (row for row in results.rows if row.status in ("ok", "wrong"))
    show_table("candidates", _FACTS, map(_facts, ran), text_columns=(0, 1))
    for row in results.rows:
        if row.status in ("wrong", "failed"):
            say(f"{row.status.upper()}: {row.name}: {row.reason}")
    if absent := _not_run(results):
        say(f"not run here: {absent}")
    _show_noise(results.noise)
    if results.comparison is not None:
        _show_comparison(results.comparison)
    if results.partial:
        say(f"PARTIAL: {results.partial_reason}")


def _times(row: Row, m: Measure) -> tuple[str, ...]:
    ratio = ("1", "") if m.ratio is None else (f"{m.ratio.median:.2f}", f"{m.ratio.min:.2f} to {m.ratio.max:.2f}")
    if row.status != "ok":  # wrong detections are no gain, however quick they are
        ratio = (row.status, "")
    p50, fps, *others = (f"{value:.4g}" for value in (m.p50_ms, m.fps, m.p90_ms, m.p99_ms, m.mean_ms))
    return row.name, ratio[0], p50, fps, ratio[1], *others, str(len(m.rounds_ms))


def _facts(row: Row) -> tuple[str, ...]:
    values = (
        (row.correctness and row.correctness.box_px, ".2g"),
        (row.artifact and row.artifact.size_bytes / 1e6, ".1f"),
        (row.build_s, ".1f"),
        (row.load_s, ".2f"),
        (row.peak_host_bytes and row.peak_host_bytes / 1e6, ".0f"),
        (row.peak_gpu_bytes and row.peak_gpu_bytes / 1e6, ".0f"),
        (row.of_roofline, ".0%"),
    )
    return row.name, row.precision, *("" if v is None else format(v, form) for v, form in values)


def _not_run(results: Results) -> str:
    """Return what this system cannot run, by reason; the reports have the whole of each reason."""
    groups = defaultdict[str, list[str]](list)
    for row in results.rows:
        if row.status == "unavailable":
            groups[re.sub(r" \(.*\)", "", row.reason.partition(": ")[0])].append(row.name.replace(",", ""))
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in groups.items())


def _show_noise(noise: NoiseVerdict) -> None:
    if noise.noise is None:
        return
    say(f"noise: {noise.row} against itself differs by up to {noise.noise:.1%}")
    for pair in noise.not_told_apart:
        if (pair.scope, pair.batch) == ("images", 1):
            say(f"not told apart (batch 1): {pair.first} and {pair.second}")


def _show_comparison(comparison: Comparison) -> None:
    rows = []
    for c in comparison.changes:
        measure = "" if c.scope is None else f"{c.scope}, batch {c.batch}"
        change = "" if c.change is None else f"{c.change:+.1%}"
        rows.append((c.name, c.verdict, change, c.old, c.new, c.what, measure, c.reason))
    show_table(
        f"against {comparison.file}, limit {comparison.limit:.1%}", _CHANGES, rows, text_columns=range(len(_CHANGES))
    )
    for line in comparison.notes:
        say(f"differs: {line}")
