"""The models measured on a CPU side by side: a line a candidate, a column a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from frcnn.benchmarks.report.formatting import NONE, number
from frcnn.benchmarks.report.ranking import head_measure, ratio_of
from frcnn.benchmarks.report.results import Results, Row
from maintenance.committed import AccuracyRow, Named, ProviderAccuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpeeds:
    """A table.

    Attributes:
        runs: of the columns.
        lines: a candidate's name, and its cell in each run: eager's milliseconds, the others' times eager.
        processors: of the runs, each once.
        are_random: whether the weights of some runs are, so that bf16 and int8 were not judged there.
    """

    runs: tuple[Named[Results], ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    processors: tuple[str, ...]
    are_random: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyLine:
    """AP and speed of a model in one provider; the speed is a cell of ``CpuSpeeds``."""

    accuracy: AccuracyRow
    speed: str


def cpu_speeds(runs: Iterable[Named[Results]]) -> CpuSpeeds:
    """Return the table of the runs on a CPU; candidates of which no run has a figure are left out."""
    chosen = tuple(named for named in runs if named.report.workload.device == "cpu")
    names = {row.id: row.name for named in chosen for row in named.report.rows}
    lines = ((name, tuple(_cell(named.report, key) for named in chosen)) for key, name in names.items())
    systems = (named.report.environment for named in chosen)
    return CpuSpeeds(
        runs=chosen,
        lines=tuple((name, cells) for name, cells in lines if any(cell != NONE for cell in cells)),
        processors=tuple(dict.fromkeys(f"{system.cpu}, {system.threads} threads" for system in systems)),
        are_random=any(_is_unjudged(row) for named in chosen for row in named.report.rows),
    )


def accuracy_lines(accuracy: ProviderAccuracy, runs: Sequence[Named[Results]]) -> list[AccuracyLine]:
    """Return AP in each provider and precision, with the speed that a run of the same checkpoint on a CPU found."""
    of_checkpoint = [
        named.report
        for named in runs
        if (named.report.workload.device, named.report.workload.checkpoint) == ("cpu", accuracy.checkpoint)
    ]
    return [
        AccuracyLine(
            accuracy=row,
            speed=next((cell for run in of_checkpoint if (cell := _cell(run, row.bench_row)) != NONE), NONE),
        )
        for row in accuracy.rows
    ]


def _cell(run: Results, key: str) -> str:
    row = run.row(key)
    measure = None if row is None else head_measure(run, row)
    if row is None or measure is None or row.status != "ok":
        return NONE
    if row.id == row.reference:
        return f"{number(measure.p50_ms)} ms"
    ratio = ratio_of(row, measure)
    return NONE if ratio is None else f"{ratio.median:.2f}x"


def _is_unjudged(row: Row) -> bool:
    return row.correctness is not None and row.correctness.limits.startswith("none")
