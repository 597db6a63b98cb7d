"""The report of a run as a document: the result first, then the table, the figures, and the details."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from frcnn.benchmarks.report import figures
from frcnn.benchmarks.report.document import Block, Cell, Document, Paragraph, Table, TableRow, Tone
from frcnn.benchmarks.report.figures import row_cells
from frcnn.benchmarks.report.formatting import NONE, bytes_text, number, percent, ratio_text, size_text
from frcnn.benchmarks.report.ranking import first_batch, head_measure, headline, ranks, ratio_of
from frcnn.benchmarks.report.results import Environment, Measure, Ratio, Results, Row

_TONES: Final[dict[str, Tone]] = {
    **{"ok": "good", "wrong": "bad", "failed": "bad", "unavailable": "quiet"},
    **{"regression": "bad", "gain": "good", "same": "plain", "not comparable": "quiet"},
}
"""Of statuses and of verdicts."""


def document_of(results: Results) -> Document:
    """Return the report of a run."""
    work, system = results.workload, results.environment
    hardware = system.gpu.name if system.gpu is not None and work.device == "cuda" else system.cpu
    sections: dict[str, Iterable[Block]] = {
        "Rows": _rows_blocks(results),
        "Changes": _comparison_blocks(results),
        "Latency": figures.latency_figures(results),
        "Batches": figures.batch_figures(results),
        "Stages": figures.stage_figures(results),
        "Speed against accuracy": _accuracy_blocks(results),
        "Cost curves": figures.curve_figures(results),
        "Roofline": _roofline_blocks(results),
        "Building, loading, memory": [_costs_table(results)],
        "Every measure": _measures_blocks(results),
        "Workload": _workload_blocks(results),
        "Environment": _environment_blocks(results),
        "How to read this": _reading_blocks(results),
    }
    filled = {title: [b for b in blocks if not isinstance(b, Table) or b.rows] for title, blocks in sections.items()}
    return Document(
        f"{work.model} against {results.rows[0].name.removesuffix(', fp32')}",
        f"{hardware}, {work.device}, {work.suite} suite, {system.date}",
        headline(results),
        {title: blocks for title, blocks in filled.items() if blocks},
    )


def rows_table(results: Results) -> Table:
    """Return every row with its status; wrong ones have no ratio and no rank, absent ones their reason."""
    places, batch, cells = ranks(results), first_batch(results), row_cells(results)
    rows: list[TableRow] = []
    for row in results.rows:
        whole, network = head_measure(results, row), row.measure("network", batch)
        sized = "on equal-sized images" if row.images == "equal-sized" else ""
        note = "; ".join(text.rstrip(".") for text in (sized, row.note) if text)
        times = (whole.p50_ms, whole.p90_ms, whole.p99_ms, whole.fps) if whole else (None,) * 4
        rows.append(
            (
                cells[row.id]._replace(small=note),
                Cell(row.status, _TONES[row.status], row.reason),
                *map(number, times),
                _times_eager(row, ratio_of(row, whole)),
                number(network.p50_ms if network else None),
                _times_eager(row, ratio_of(row, network)),
                str(places.get(row.id, NONE)),
            )
        )
    columns = ("p50 ms", "p90 ms", "p99 ms", "images/s", "x eager", "network p50 ms", "network x eager", "rank")
    scope = "image to boxes" if batch == 1 else f"image to boxes, batch {batch}"
    return Table(f"All rows; {scope}, and the network alone", ("candidate", "status", *columns), rows, text_columns=2)


def _times_eager(row: Row, ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell("reference" if row.id == row.reference and row.status == "ok" else NONE)
    return Cell(f"{ratio.median:.2f}x", small=f"{ratio.low:.2f} to {ratio.high:.2f}")


def _rows_blocks(results: Results) -> list[Block]:
    notes = []
    if results.noise.too_noisy:
        notes = [Paragraph("There are no ranks: the system was too noisy to tell rows apart.", "warning")]
    elif results.noise.not_told_apart:
        notes = [Paragraph("Rows that share a rank cannot be told apart in this run.")]
    return [rows_table(results), *notes, *figures.ratio_figures(results)]


def _comparison_blocks(results: Results) -> list[Block]:
    comparison, cells = results.comparison, row_cells(results)
    if comparison is None:
        return []
    worse = sum(change.verdict == "regression" for change in comparison.changes)
    count = {0: "No regression", 1: "1 regression"}.get(worse, f"{worse} regressions")
    summary = f"{count} beyond {percent(comparison.limit, 0)} and noise, against {comparison.file}."
    rows: list[TableRow] = []
    for change in comparison.changes:
        batch = "" if change.batch is None else f"batch {change.batch}"
        rows.append(
            (
                cells[change.row]._replace(text=change.name) if change.row in cells else change.name,
                ", ".join(part for part in (change.what, change.scope, batch) if part),
                Cell(change.verdict, _TONES[change.verdict], change.reason),
                change.old,
                change.new,
                NONE if change.change is None else f"{change.change:+.1%}".replace("%", " %"),
            )
        )
    return [
        Paragraph(summary, "bad" if worse else "plain"),
        *(Paragraph(f"Differs between the runs: {note}", "warning") for note in comparison.notes),
        Table("Then and now", ("candidate", "figure", "verdict", "then", "now", "change"), rows, text_columns=3),
    ]


def _accuracy_blocks(results: Results) -> list[Block]:
    checked = [(row, row.correctness) for row in results.rows if row.correctness is not None]
    if not checked:
        return []
    cells = row_cells(results)
    rows: list[TableRow] = [
        (
            cells[row.id]._replace(small=check.limits),
            Cell("within", "good") if check.passed else Cell("beyond", "bad"),
            *map(str, (check.expected, check.found, check.matched, check.tied)),
            *map(str, (check.unmatched, check.relabelled, check.moved)),
            percent(figures.agreement(check)),
            number(check.box_px),
            number(check.score),
            f"{check.iou:.4f}",
        )
        for row, check in checked
    ]
    counts = ("eager's", "found", "pairs", "tied", "unmatched", "relabelled", "moved")
    columns = ("candidate", "limits", *counts, "agree", "box px", "score", "min IoU")
    caption = f"Detections against eager's, {_range([check.images for _, check in checked])} images"
    text = "Every row's detections are compared with eager's on the same images, in this run. frcnn eval measures mAP"
    return [
        Paragraph(f"{text} on annotated images."),
        *figures.accuracy_figures(results),
        Table(caption, columns, rows, text_columns=2),
    ]


def _roofline_blocks(results: Results) -> list[Block]:
    roofline, cells = results.roofline, row_cells(results)
    if roofline is None:
        return []
    canvas = size_text(roofline.canvas)
    ceilings = [
        (one.device, f"matrix product, {precision}", f"{number(rate / 1e9)} GFLOP/s")
        for one in roofline.ceilings
        for precision, rate in one.matmul_flops_per_s.items()
    ]
    ceilings += [(one.device, "copy", f"{number(one.copy_bytes_per_s / 1e9)} GB/s") for one in roofline.ceilings]
    work: list[TableRow] = [
        (
            figures.stage_cell(w.stage),
            *map(number, (w.flops / 1e9, w.bytes / 1e6, w.flops / w.bytes if w.bytes else None)),
        )
        for w in roofline.work
    ]
    reached = [
        (cells[row.id], f"{row.device} {row.precision}", percent(row.of_roofline))
        for row in results.rows
        if row.of_roofline is not None and row.status == "ok"
    ]
    floors = [(device, number(floor)) for device, floor in roofline.floors_ms.items()]
    counted = f"Work of one image on a canvas of {canvas}, counted from the graph"
    share = "Share of the roofline: minimum time / time of the network"
    return [
        *figures.roofline_figures(results),
        Table("Ceilings, measured in the run", ("device", "what", "rate"), ceilings, text_columns=2),
        Table(counted, ("stage", "GFLOP", "MB", "FLOP per byte"), work),
        Table(f"Minimum time of the network, {canvas}, batch 1", ("device, precision", "ms"), floors),
        Table(share, ("candidate", "device, precision", "share"), reached, text_columns=2),
    ]


def _costs_table(results: Results) -> Table:
    cells = row_cells(results)
    rows: list[TableRow] = []
    for row in results.rows:
        if row.status in ("ok", "wrong"):
            file = row.artifact
            origin = "" if file is None else f"{file.name}, {'built in this run' if file.built_here else 'as given'}"
            size = Cell(bytes_text(file.size_bytes if file else None), small=origin)
            memory = map(bytes_text, (row.peak_host_bytes, row.peak_gpu_bytes))
            rows.append((cells[row.id], number(row.build_s, 2), number(row.load_s, 2), size, *memory))
    columns = ("candidate", "build s", "load s", "file", "host memory", "GPU memory")
    return Table("Time to build and to load, size of the file, growth of memory to its peak", columns, rows)


def _measures_blocks(results: Results) -> list[Block]:
    cells = row_cells(results)
    rows: list[TableRow] = [_measured(cells[row.id], row, measure) for row in results.rows for measure in row.measures]
    missing = [(cells[row.id], reason) for row in results.rows for reason in row.missing]
    times = ("p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "x eager")
    columns = ("candidate", "scope", "batch", "calls in rounds", *times)
    return [
        Table("Every measure", columns, rows, text_columns=2, folded=True),
        Table("Not measured", ("candidate", "reason"), missing, text_columns=2),
    ]


def _measured(cell: Cell, row: Row, measure: Measure) -> tuple[Cell | str, ...]:
    ratio = "reference" if row.id == row.reference else ratio_text(ratio_of(row, measure))
    return (
        cell,
        "image to boxes" if measure.scope == "images" else "network",
        str(measure.batch),
        f"{sum(map(len, measure.rounds_ms))} in {len(measure.rounds_ms)}",
        *map(number, (measure.p50_ms, measure.p90_ms, measure.p99_ms, measure.mean_ms, measure.fps)),
        "wrong" if row.status == "wrong" else ratio,
    )


def _workload_blocks(results: Results) -> list[Block]:
    work = results.workload
    facts = {
        "model": work.model,
        "checkpoint": work.checkpoint or "none: random weights",
        "SHA-256 of the checkpoint": work.checkpoint_sha256 or NONE,
        "classes, with the background": str(work.num_classes),
        "images": f"{len(work.images)}, {work.source}",
        "canvases": ", ".join(map(size_text, work.canvases)) or NONE,
        "equal-sized images": NONE if work.equal_size is None else size_text(work.equal_size),
        "batch sizes": ", ".join(map(str, work.batches)) or NONE,
        "time given to measuring": f"{number(work.budget_s)} s",
        "proposals an image": _range(work.proposals),
        "detections an image": _range(work.detections),
    }
    counts: list[Sequence[int]] = []
    if len(work.proposals) == len(work.detections) == len(work.images):
        counts = [work.proposals, work.detections]
    images = [
        (image.name, size_text(image.size), *(str(of_image[place]) for of_image in counts))
        for place, image in enumerate(work.images)
    ]
    columns = ("image", "size", "proposals", "detections")[: 2 + len(counts)]
    skipped = [(one.name, one.reason) for one in work.skipped]
    return [
        Table("The task", ("what", "value"), list(facts.items()), text_columns=2),
        Table("The images (height x width)", columns, images, folded=True),
        Table("Skipped", ("input", "reason"), skipped, text_columns=2),
    ]


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return NONE
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _environment_blocks(results: Results) -> list[Block]:
    system = results.environment
    states = []
    for state in system.gpu.states if system.gpu is not None else ():
        throttling = Cell(", ".join(state.throttling), "warning") if state.throttling else "none"
        values = (state.sm_clock_mhz, state.memory_clock_mhz, state.power_w, state.temperature_c)
        states.append((state.when, throttling, *(NONE if value is None else f"{value:.0f}" for value in values)))
    columns = ("when", "throttling", "SM clock MHz", "memory clock MHz", "power W", "temperature °C")
    return [
        Paragraph("The command that repeats this run:"),
        Paragraph(system.command, "code"),
        Table("The system", ("what", "value"), _system_facts(system), text_columns=2),
        Table("The GPU during the run", columns, states, text_columns=2),
        Table("Packages", ("package", "version"), sorted(system.packages.items()), text_columns=2, folded=True),
    ]


def _system_facts(system: Environment) -> list[tuple[str, str]]:
    loads = [NONE if load is None else f"{load:.2f}" for load in (system.load_before, system.load_after)]
    gpu = ""
    if system.gpu is not None:
        memory = bytes_text(system.gpu.memory_bytes)
        capability, driver = system.gpu.compute_capability, system.gpu.driver
        gpu = f"{system.gpu.name}, compute capability {capability}, {memory}, driver {driver}"
    facts = {
        "processor": f"{system.cpu} ({system.system})",
        "logical processors": f"{system.cores}; allowed to the run: {', '.join(map(str, system.affinity)) or NONE}",
        "threads a row": str(system.threads),
        "clock governor": system.governor or "not reported",
        "turbo": {True: "on", False: "off", None: "not reported"}[system.turbo],
        "load before, after": ", ".join(loads),
        "memory": bytes_text(system.memory_bytes),
        "GPU": gpu,
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
    return [Paragraph(text) for text in texts]
