"""The parts of a report that stand behind its answer: checks, costs, every measure, the workload, the system."""

from __future__ import annotations

from dataclasses import replace

from frcnn.benchmarks.report.document import Block, Cell, Code, Paragraph, Section, Table, TableRow, Tone
from frcnn.benchmarks.report.formatting import NONE, bytes_text, keys, ms, number, percent, ratio_text, size_text
from frcnn.benchmarks.report.plane_figures import agreement
from frcnn.benchmarks.report.ranking import ratio_of
from frcnn.benchmarks.report.results import Environment, Gpu, Measure, Results, Row, Verdict

__all__ = [
    "comparison_section",
    "correctness_section",
    "costs_section",
    "environment_section",
    "measures_section",
    "workload_section",
]

_VERDICTS: dict[Verdict, Tone] = {"regression": "bad", "gain": "good", "same": "plain", "not comparable": "quiet"}


def _way(results: Results, row: Row) -> Cell:
    return Cell(text=row.name, key=keys(results)[row.id][0])


def correctness_section(results: Results) -> tuple[Table, ...]:
    """Return the table of the checks; empty where nothing was checked."""
    rows = tuple(
        (
            replace(_way(results, row), small=check.limits),
            Cell(text="within" if check.passed else "beyond", tone="good" if check.passed else "bad"),
            str(check.expected),
            str(check.found),
            str(check.matched),
            str(check.unmatched),
            str(check.relabelled),
            str(check.moved),
            percent(agreement(check)),
            number(check.box_px),
            number(check.score),
            f"{check.iou:.4f}",
        )
        for row in results.rows
        if (check := row.correctness) is not None
    )
    counts = ("eager's", "found", "pairs", "unmatched", "relabelled", "moved")
    images = tuple(row.correctness.images for row in results.rows if row.correctness is not None)
    columns = ("way", "limits", *counts, "agree", "box px", "score", "least IoU")
    table = Table(caption=f"Detections against eager's, {_range(images)} images", columns=columns, rows=rows, texts=2)
    return (table,) if rows else ()


def costs_section(results: Results) -> Section:
    """Return what a row costs apart from time per image."""
    rows = tuple(
        (
            _way(results, row),
            seconds(row.build_s),
            seconds(row.load_s),
            Cell(text=NONE)
            if row.artifact is None
            else Cell(
                text=bytes_text(row.artifact.size_bytes), small=_made(row.artifact.name, row.artifact.built_here)
            ),
            bytes_text(row.peak_host_bytes),
            bytes_text(row.peak_gpu_bytes),
        )
        for row in results.rows
        if row.status in ("ok", "wrong")
    )
    table = Table(
        caption="Time to build and to load, size of the file, growth of memory to its peak",
        columns=("way", "build s", "load s", "file", "host memory", "GPU memory"),
        rows=rows,
    )
    return Section(name="costs", title="Building, loading, memory", blocks=(table,) if rows else ())


def _made(name: str, built_here: bool) -> str:
    return f"{name}, {'built in this run' if built_here else 'as given'}"


def seconds(value: float | None) -> str:
    """Return seconds without the unit."""
    return NONE if value is None else number(value, 2)


def measures_section(results: Results) -> Section:
    """Return every measure of every row, and why others are missing."""
    rows = tuple(_measured(results, row, measure) for row in results.rows for measure in row.measures)
    missing = tuple((_way(results, row), why) for row in results.rows for why in row.missing)
    times = ("p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "x eager")
    blocks: list[Block] = []
    if rows:
        columns = ("way", "scope", "batch", "calls in rounds", *times)
        blocks.append(Table(caption="Every measure", columns=columns, rows=rows, texts=2, folded=True))
    if missing:
        blocks.append(Table(caption="Not measured", columns=("way", "why"), rows=missing, texts=2))
    return Section(name="measures", title="Every measure", blocks=tuple(blocks))


def _measured(results: Results, row: Row, measure: Measure) -> TableRow:
    if row.status == "wrong":
        against = "wrong"
    else:
        against = "reference" if row.id == row.reference else ratio_text(ratio_of(row, measure))
    return (
        _way(results, row),
        "image to boxes" if measure.scope == "images" else "network",
        str(measure.batch),
        f"{sum(map(len, measure.rounds_ms))} in {len(measure.rounds_ms)}",
        *(ms(value) for value in (measure.p50_ms, measure.p90_ms, measure.p99_ms, measure.mean_ms)),
        number(measure.fps),
        against,
    )


def comparison_section(results: Results) -> Section:
    """Return what changed since an earlier run; no blocks without one."""
    comparison = results.comparison
    if comparison is None:
        return Section(name="changes", title="Changes", blocks=())
    worse = sum(change.verdict == "regression" for change in comparison.changes)
    count = {0: "No regression", 1: "1 regression"}.get(worse, f"{worse} regressions")
    said = f"{count} beyond {percent(comparison.limit, 0)} and noise"
    blocks: list[Block] = [Paragraph(text=f"{said}, against {comparison.file}.", tone="bad" if worse else "plain")]
    blocks += [Paragraph(text=f"Differs between the runs: {note}", tone="warning") for note in comparison.notes]
    letters = keys(results)
    rows = tuple(
        (
            Cell(text=change.name, key=letters[change.row][0] if change.row in letters else ""),
            ", ".join(part for part in (change.what, _of_measure(change.scope, change.batch)) if part),
            Cell(text=change.verdict, tone=_VERDICTS[change.verdict], small=change.reason),
            change.old,
            change.new,
            NONE if change.change is None else f"{change.change:+.1%}".replace("%", " %"),
        )
        for change in comparison.changes
    )
    if rows:
        columns = ("way", "figure", "verdict", "then", "now", "change")
        blocks.append(Table(caption="Then and now", columns=columns, rows=rows, texts=3))
    return Section(name="changes", title="Changes", blocks=tuple(blocks))


def _of_measure(scope: str | None, batch: int | None) -> str:
    return ", ".join(part for part in (scope or "", f"batch {batch}" if batch is not None else "") if part)


def workload_section(results: Results) -> Section:
    """Return the task: model, images, how many proposals and detections."""
    work = results.workload
    facts = [
        ("model", work.model),
        ("checkpoint", work.checkpoint or "none: random weights"),
        ("SHA-256 of the checkpoint", work.checkpoint_sha256 or NONE),
        ("classes, with the background", str(work.num_classes)),
        ("images", f"{len(work.images)}, {work.source}"),
        ("canvases", ", ".join(map(size_text, work.canvases)) or NONE),
        ("equal-sized images", NONE if work.equal_size is None else size_text(work.equal_size)),
        ("batch sizes", ", ".join(map(str, work.batches)) or NONE),
        ("time given to measuring", f"{number(work.budget_s)} s"),
        ("proposals an image", _range(work.proposals)),
        ("detections an image", _range(work.detections)),
    ]
    blocks: list[Block] = [Table(caption="The task", columns=("what", "value"), rows=tuple(facts), texts=2)]
    whole = len(work.proposals) == len(work.detections) == len(work.images)
    rows = tuple(
        (
            image.name,
            size_text(image.size),
            *((str(work.proposals[place]), str(work.detections[place])) if whole else ()),
        )
        for place, image in enumerate(work.images)
    )
    columns = ("image", "size", *(("proposals", "detections") if whole else ()))
    if rows:
        blocks.append(Table(caption="The images (height x width)", columns=columns, rows=rows, folded=True))
    if work.skipped:
        skipped = tuple((one.name, one.reason) for one in work.skipped)
        blocks.append(Table(caption="Skipped", columns=("input", "why"), rows=skipped, texts=2))
    return Section(name="workload", title="Workload", blocks=tuple(blocks))


def _range(counts: tuple[int, ...]) -> str:
    if not counts:
        return NONE
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def environment_section(results: Results) -> Section:
    """Return the system and the command that repeats the run."""
    system = results.environment
    blocks: list[Block] = [
        Paragraph(text="The command that repeats this run:"),
        Code(text=system.command),
        Table(caption="The system", columns=("what", "value"), rows=tuple(_facts(system)), texts=2),
    ]
    if system.gpu is not None and system.gpu.states:
        blocks.append(_states(system.gpu))
    versions = tuple(sorted(system.packages.items()))
    if versions:
        blocks.append(Table(caption="Packages", columns=("package", "version"), rows=versions, texts=2, folded=True))
    return Section(name="environment", title="Environment", blocks=tuple(blocks))


def _facts(system: Environment) -> list[tuple[str, str]]:
    turbo = {True: "on", False: "off", None: "not said"}[system.turbo]
    loads = [NONE if load is None else f"{load:.2f}" for load in (system.load_before, system.load_after)]
    facts = [
        ("processor", f"{system.cpu} ({system.system})"),
        ("logical processors", f"{system.cores}; allowed to the run: {', '.join(map(str, system.affinity)) or NONE}"),
        ("threads a row", str(system.threads)),
        ("clock governor", system.governor or "not said"),
        ("turbo", turbo),
        ("load before, after", ", ".join(loads)),
        ("memory", bytes_text(system.memory_bytes)),
    ]
    if system.gpu is not None:
        gpu = system.gpu
        about = f"{gpu.name}, compute capability {gpu.compute_capability}, {bytes_text(gpu.memory_bytes)}"
        facts.append(("GPU", f"{about}, driver {gpu.driver}"))
    return [
        *facts,
        ("system", system.os),
        ("Python", system.python),
        ("frcnn", system.frcnn),
        ("date", system.date),
    ]


def _states(gpu: Gpu) -> Table:
    def shown(value: float | None) -> str:
        return NONE if value is None else f"{value:.0f}"

    rows = tuple(
        (
            state.when,
            Cell(text=", ".join(state.throttling), tone="warning") if state.throttling else "none",
            shown(state.sm_clock_mhz),
            shown(state.memory_clock_mhz),
            shown(state.power_w),
            shown(state.temperature_c),
        )
        for state in gpu.states
    )
    columns = ("when", "throttling", "SM clock MHz", "memory clock MHz", "power W", "temperature °C")
    return Table(caption="The GPU during the run", columns=columns, rows=rows, texts=2)
