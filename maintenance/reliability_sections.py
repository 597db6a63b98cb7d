"""The figures of docs/reliability.md, from what ``make soak-full`` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from frcnn.benchmarks.report.document import Table
from frcnn.benchmarks.report.formatting import ms
from frcnn.benchmarks.report.markdown_page import escaped, table_markdown
from maintenance.committed import Committed, Named, Soak

__all__ = ["reliability_figures"]

_COMMAND: Final = "make soak-full"
_STATES: Final = ("nothing", "old", "mixed", "new")
Figures = Mapping[str, Any]


def reliability_figures(committed: Committed) -> str:
    """Return the figures that were reached, a paragraph and a table for each attack; or how to reach them."""
    parts = [part for named in committed.soaks for part in _attacks(named)]
    return "\n\n".join(parts or [f"Not measured yet; `{_COMMAND}` measures it."])


def _attacks(named: Named[Soak]) -> Iterable[str]:
    system, attacks = named.report.environment, named.report.attacks
    yield (
        f"From [`benchmarks/results/{named.file}`](../benchmarks/results/{named.file}), made by `{system.command}` on"
        f" {system.cores} cores of an\n{escaped(system.cpu)}, {system.date}."
    )
    for name, part in (("hostile files", _hostile), ("kills", _kills), ("load", _load)):
        if name in attacks:
            yield from part(attacks[name])


def _hostile(found: Figures) -> Iterable[str]:
    yield (
        f"**Hostile files.** {found['inputs']:,} damaged inputs (seed {found['seed']}), {found['faults']} faults; the"
        f" reading processes grew by at most {found['grown_bytes'] / 2**20:,.0f} MiB."
    )
    rows = []
    for name, reader in found["readers"].items():
        accepted = reader["outcomes"].get("accepted", 0)
        rows.append((name, f"{reader['inputs']:,}", f"{accepted:,}", f"{reader['inputs'] - accepted:,}"))
    yield _table(("reader", "inputs", "taken, and right", "refused in one line"), rows)


def _kills(found: Figures) -> Iterable[str]:
    yield f"**Kills.** {found['kills']} SIGKILLs, {found['lost']} with something lost. What each left in its outputs:"
    rows = [
        (name, str(verb["kills"]), *(str(verb.get(f"found {state}", 0)) for state in _STATES))
        for name, verb in found["verbs"].items()
    ]
    yield _table(("command", "kills", "nothing yet", "all old", "some new, each whole", "all new"), rows)


def _load(found: Figures) -> Iterable[str]:
    threads = found["threads"]
    idle, loaded = threads["latency_idle"], threads["latency_under_load"]
    yield (
        f"**Load.** {threads['threads']} threads on one detector: p99 {ms(loaded['p99_ms'])} ms a call (p50"
        f" {ms(loaded['p50_ms'])}), against {ms(idle['p99_ms'])} ms\n(p50 {ms(idle['p50_ms'])}) for one thread alone."
        " Growth of resident memory is the Theil-Sen slope with its 95 % interval."
    )
    rows = [
        _growth("threads on one detector", threads["images"], "images", threads),
        _growth("small images", found["images"]["images"], "images", found["images"]),
        _growth("detectors loaded and closed", found["detectors"]["detectors"], "detectors", found["detectors"]),
    ]
    yield _table(("what", "how many", "wrong answers", "growth of memory", "files", "threads"), rows)
    engine = found["engine_threads"]
    yield (
        f"{engine['threads']} threads on an engine artifact, on a device in host memory: {engine['images']:,}"
        f" images,\n{len(engine['wrong'])} wrong answers, and no allocation on the device after the first round."
    )


def _growth(what: str, count: int, unit: str, found: Figures) -> tuple[str, ...]:
    slope = found["growth"]["rss_bytes_per_1000"]
    before, after = found["growth"]["at_rest"]
    interval = f"{slope['per_1000']:,.0f} ({slope['low']:,.0f} to {slope['high']:,.0f}) bytes in 1,000"
    wrong = found.get("wrong", 0)
    return (
        what,
        f"{count:,} {unit}",
        str(wrong if isinstance(wrong, int) else len(wrong)),
        interval,
        f"{before['descriptors']} to {after['descriptors']}",
        f"{before['threads']} to {after['threads']}",
    )


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return table_markdown(Table(caption="", columns=columns, rows=tuple(rows), texts=1))
