"""The report of a run as a document: the result first, then the table, the figures, and the details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from frcnn.benchmarks.report.document import (
    Block,
    Cell,
    Code,
    Document,
    Paragraph,
    Section,
    Table,
    TableRow,
    Tone,
)
from frcnn.benchmarks.report.figures import (
    accuracy_figures,
    agreement,
    batch_figures,
    curve_figures,
    latency_figures,
    ratio_figures,
    roofline_figures,
    row_cells,
    stage_cell,
    stage_figures,
)
from frcnn.benchmarks.report.formatting import NONE, bytes_text, ms, number, percent, ratio_text, size_text
from frcnn.benchmarks.report.ranking import first_batch, head_measure, headline, ranks, ratio_of
from frcnn.benchmarks.report.results import Environment, Measure, Ratio, Results, Row, Status, Verdict

__all__ = ["document_of", "rows_table"]

_STATUS_TONES: dict[Status, Tone] = {"ok": "good", "wrong": "bad", "failed": "bad", "unavailable": "quiet"}
_VERDICT_TONES: dict[Verdict, Tone] = {"regression": "bad", "gain": "good", "same": "plain", "not comparable": "quiet"}


def document_of(results: Results) -> Document:
    """Return the report of a run."""
    work, system = results.workload, results.environment
    hardware = system.gpu.name if system.gpu is not None and work.device == "cuda" else system.cpu
    sections = {
        "Rows": _rows_blocks(results),
        "Changes": _comparison_blocks(results),
        "Latency": latency_figures(results),
        "Batches": batch_figures(results),
        "Stages": stage_figures(results),
        "Speed against accuracy": _accuracy_blocks(results),
        "Cost curves": curve_figures(results),
        "Roofline": _roofline_blocks(results),
        "Building, loading, memory": _costs_blocks(results),
        "Every measure": _measures_blocks(results),
        "Workload": _workload_blocks(results),
        "Environment": _environment_blocks(results),
        "How to read this": _reading_blocks(results),
    }
    return Document(
        title=f"{work.model} against eager torchvision",
        subtitle=f"{hardware}, {work.device}, {work.suite} suite, {system.date}",
        headline=headline(results),
        sections=tuple(
            Section(name=title.lower().replace(",", "").replace(" ", "-"), title=title, blocks=tuple(blocks))
            for title, blocks in sections.items()
            if blocks
        ),
    )


def rows_table(results: Results) -> Table:
    """Return every row with its status; wrong ones have no ratio and no rank, absent ones their reason."""
    places, batch = ranks(results), first_batch(results)
    sized = {row.id: "on equal-sized images" if row.images == "equal-sized" else "" for row in results.rows}
    notes = {row.id: "; ".join(text.rstrip(".") for text in (sized[row.id], row.note) if text) for row in results.rows}
    cells = row_cells(results)
    rows: list[TableRow] = []
    for row in results.rows:
        whole, network = head_measure(results, row), row.measure("network", batch)
        rows.append(
            (
                replace(cells[row.id], small=notes[row.id]),
                Cell(text=row.status, tone=_STATUS_TONES[row.status], small=row.reason),
                *(ms(value) for value in ((whole.p50_ms, whole.p90_ms, whole.p99_ms) if whole else (None,) * 3)),
                number(whole.fps) if whole else NONE,
                _times_eager(row, ratio_of(row, whole)),
                ms(network.p50_ms if network else None),
                _times_eager(row, ratio_of(row, network)),
                str(places.get(row.id, NONE)),
            )
        )
    times = ("p50 ms", "p90 ms", "p99 ms", "images/s", "x eager")
    scope = "image to boxes" if batch == 1 else f"image to boxes, batch {batch}"
    return Table(
        caption=f"All rows; {scope}, and the network alone",
        columns=("candidate", "status", *times, "network p50 ms", "network x eager", "rank"),
        rows=tuple(rows),
        text_columns=2,
    )


def _times_eager(row: Row, ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell(text="reference" if row.id == row.reference and row.status == "ok" else NONE)
    return Cell(text=f"{ratio.median:.2f}x", small=f"{ratio.low:.2f} to {ratio.high:.2f}")


def _rows_blocks(results: Results) -> tuple[Block, ...]:
    notes: tuple[Paragraph, ...] = ()
    if results.noise.too_noisy:
        notes = (Paragraph(text="There are no ranks: the system was too noisy to tell rows apart.", tone="warning"),)
    elif results.noise.not_told_apart:
        notes = (Paragraph(text="Rows that share a rank cannot be told apart in this run."),)
    return (rows_table(results), *notes, *ratio_figures(results))


def _comparison_blocks(results: Results) -> Sequence[Block]:
    comparison = results.comparison
    if comparison is None:
        return ()
    worse = sum(change.verdict == "regression" for change in comparison.changes)
    count = {0: "No regression", 1: "1 regression"}.get(worse, f"{worse} regressions")
    summary = f"{count} beyond {percent(comparison.limit, 0)} and noise, against {comparison.file}."
    blocks: list[Block] = [Paragraph(text=summary, tone="bad" if worse else "plain")]
    blocks += [Paragraph(text=f"Differs between the runs: {note}", tone="warning") for note in comparison.notes]
    cells = row_cells(results)
    rows = tuple(
        (
            replace(cells[change.row], text=change.name) if change.row in cells else change.name,
            ", ".join(
                part
                for part in (change.what, change.scope, "" if change.batch is None else f"batch {change.batch}")
                if part
            ),
            Cell(text=change.verdict, tone=_VERDICT_TONES[change.verdict], small=change.reason),
            change.old,
            change.new,
            NONE if change.change is None else f"{change.change:+.1%}".replace("%", " %"),
        )
        for change in comparison.changes
    )
    if rows:
        columns = ("candidate", "figure", "verdict", "then", "now", "change")
        blocks.append(Table(caption="Then and now", columns=columns, rows=rows, text_columns=3))
    return blocks


def _accuracy_blocks(results: Results) -> tuple[Block, ...]:
    checked = [(row, row.correctness) for row in results.rows if row.correctness is not None]
    cells = row_cells(results)
    rows: tuple[TableRow, ...] = tuple(
        (
            replace(cells[row.id], small=check.limits),
            Cell(text="within", tone="good") if check.passed else Cell(text="beyond", tone="bad"),
            *map(str, (check.expected, check.found, check.matched, check.unmatched, check.relabelled, check.moved)),
            percent(agreement(check)),
            number(check.box_px),
            number(check.score),
            f"{check.iou:.4f}",
        )
        for row, check in checked
    )
    if not rows:
        return ()
    counts = ("eager's", "found", "pairs", "unmatched", "relabelled", "moved")
    table = Table(
        caption=f"Detections against eager's, {_range([check.images for _, check in checked])} images",
        columns=("candidate", "limits", *counts, "agree", "box px", "score", "min IoU"),
        rows=rows,
        text_columns=2,
    )
    text = "Every row's detections are compared with eager's on the same images, in this run. frcnn eval measures mAP"
    return Paragraph(text=f"{text} on annotated images."), *accuracy_figures(results), table


def _roofline_blocks(results: Results) -> tuple[Block, ...]:
    roofline = results.roofline
    if roofline is None:
        return ()
    ceilings = [
        (one.device, f"matrix product, {precision}", f"{number(rate / 1e9)} GFLOP/s")
        for one in roofline.ceilings
        for precision, rate in one.matmul_flops_per_s.items()
    ]
    ceilings += [(one.device, "copy", f"{number(one.copy_bytes_per_s / 1e9)} GB/s") for one in roofline.ceilings]
    work = [
        (
            stage_cell(work.stage),
            number(work.flops / 1e9),
            number(work.bytes / 1e6),
            number(work.flops / work.bytes) if work.bytes else NONE,
        )
        for work in roofline.work
    ]
    cells = row_cells(results)
    reached = [
        (cells[row.id], f"{row.device} {row.precision}", percent(row.of_roofline))
        for row in results.rows
        if row.of_roofline is not None and row.status == "ok"
    ]
    floors = [(device, ms(floor)) for device, floor in roofline.floors_ms.items()]
    canvas = size_text(roofline.canvas)
    counted = f"Work of one image on a canvas of {canvas}, counted from the graph"
    share = "Share of the roofline: minimum time / time of the network"
    return (
        *roofline_figures(results),
        *_table("Ceilings, measured in the run", ("device", "what", "rate"), ceilings, text_columns=2),
        *_table(counted, ("stage", "GFLOP", "MB", "FLOP per byte"), work),
        *_table(f"Minimum time of the network, {canvas}, batch 1", ("device, precision", "ms"), floors),
        *_table(share, ("candidate", "device, precision", "share"), reached, text_columns=2),
    )


def _table(
    caption: str, columns: tuple[str, ...], rows: Sequence[TableRow], *, text_columns: int = 1, folded: bool = False
) -> tuple[Table, ...]:
    """Return a table, or nothing where it would have no rows."""
    table = Table(caption=caption, columns=columns, rows=tuple(rows), text_columns=text_columns, folded=folded)
    return (table,) if rows else ()


def _costs_blocks(results: Results) -> tuple[Block, ...]:
    cells = row_cells(results)
    rows: list[TableRow] = []
    for row in results.rows:
        if row.status not in ("ok", "wrong"):
            continue
        file = row.artifact
        origin = "" if file is None else f"{file.name}, {'built in this run' if file.built_here else 'as given'}"
        rows.append(
            (
                cells[row.id],
                *(NONE if seconds is None else number(seconds, 2) for seconds in (row.build_s, row.load_s)),
                Cell(text=bytes_text(None if file is None else file.size_bytes), small=origin),
                bytes_text(row.peak_host_bytes),
                bytes_text(row.peak_gpu_bytes),
            )
        )
    columns = ("candidate", "build s", "load s", "file", "host memory", "GPU memory")
    return _table("Time to build and to load, size of the file, growth of memory to its peak", columns, rows)


def _measures_blocks(results: Results) -> tuple[Block, ...]:
    cells = row_cells(results)
    rows = [_measured(cells[row.id], row, measure) for row in results.rows for measure in row.measures]
    missing = [(cells[row.id], reason) for row in results.rows for reason in row.missing]
    times = ("p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "x eager")
    columns = ("candidate", "scope", "batch", "calls in rounds", *times)
    return (
        *_table("Every measure", columns, rows, text_columns=2, folded=True),
        *_table("Not measured", ("candidate", "reason"), missing, text_columns=2),
    )


def _measured(cell: Cell, row: Row, measure: Measure) -> TableRow:
    ratio = "reference" if row.id == row.reference else ratio_text(ratio_of(row, measure))
    return (
        cell,
        "image to boxes" if measure.scope == "images" else "network",
        str(measure.batch),
        f"{sum(map(len, measure.rounds_ms))} in {len(measure.rounds_ms)}",
        *(ms(value) for value in (measure.p50_ms, measure.p90_ms, measure.p99_ms, measure.mean_ms)),
        number(measure.fps),
        "wrong" if row.status == "wrong" else ratio,
    )


def _workload_blocks(results: Results) -> tuple[Block, ...]:
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
    images: list[TableRow] = [(image.name, size_text(image.size)) for image in work.images]
    columns: tuple[str, ...] = ("image", "size")
    if len(work.proposals) == len(work.detections) == len(images):
        columns += ("proposals", "detections")
        counts = zip(map(str, work.proposals), map(str, work.detections), strict=True)
        images = [(*image, *of_image) for image, of_image in zip(images, counts, strict=True)]
    return (
        *_table("The task", ("what", "value"), facts, text_columns=2),
        *_table("The images (height x width)", columns, images, folded=True),
        *_table("Skipped", ("input", "reason"), [(one.name, one.reason) for one in work.skipped], text_columns=2),
    )


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return NONE
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _environment_blocks(results: Results) -> tuple[Block, ...]:
    system = results.environment
    versions = sorted(system.packages.items())
    states = [
        (
            state.when,
            Cell(text=", ".join(state.throttling), tone="warning") if state.throttling else "none",
            *(
                NONE if value is None else f"{value:.0f}"
                for value in (state.sm_clock_mhz, state.memory_clock_mhz, state.power_w, state.temperature_c)
            ),
        )
        for state in (system.gpu.states if system.gpu is not None else ())
    ]
    columns = ("when", "throttling", "SM clock MHz", "memory clock MHz", "power W", "temperature °C")
    return (
        Paragraph(text="The command that repeats this run:"),
        Code(text=system.command),
        *_table("The system", ("what", "value"), _system_facts(system), text_columns=2),
        *_table("The GPU during the run", columns, states, text_columns=2),
        *_table("Packages", ("package", "version"), versions, text_columns=2, folded=True),
    )


def _system_facts(system: Environment) -> list[tuple[str, str]]:
    loads = [NONE if load is None else f"{load:.2f}" for load in (system.load_before, system.load_after)]
    gpu = system.gpu
    facts = {
        "processor": f"{system.cpu} ({system.system})",
        "logical processors": f"{system.cores}; allowed to the run: {', '.join(map(str, system.affinity)) or NONE}",
        "threads a row": str(system.threads),
        "clock governor": system.governor or "not reported",
        "turbo": {True: "on", False: "off", None: "not reported"}[system.turbo],
        "load before, after": ", ".join(loads),
        "memory": bytes_text(system.memory_bytes),
        "GPU": ""
        if gpu is None
        else f"{gpu.name}, compute capability {gpu.compute_capability}, {bytes_text(gpu.memory_bytes)},"
        f" driver {gpu.driver}",
        "system": system.os,
        "Python": system.python,
        "frcnn": system.frcnn,
        "date": system.date,
    }
    return [(name, value) for name, value in facts.items() if value]


def _reading_blocks(results: Results) -> list[Block]:
    noise = results.noise
    null = f"Its noise was {percent(noise.noise)}" if noise.noise is not None else "Its noise could not be measured"
    texts = [
        "“x eager” is eager's time divided by the row's time, taken within a round, in which all rows run one after the"
        " other on the same images; the number is the median over the rounds. In brackets is the interval that"
        " holds the true median with 95 % certainty, or the smallest and the largest round where there were fewer"
        " than 6.",
        "To measure the noise of the system itself, one row runs as two, interleaved like all others, and any"
        f" difference between the two is noise. {null}; above {percent(noise.limit)} the run is called too noisy and"
        " nothing is ranked, and below it rows that differ by less than the noise share a rank.",
        *([f"How it was decided: {noise.how}"] if noise.how else []),
    ]
    return [Paragraph(text=text) for text in texts]
