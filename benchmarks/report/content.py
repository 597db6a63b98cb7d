"""The report of a run as a document: the answer first, then the table, the charts, and everything behind them."""

from __future__ import annotations

from frcnn.benchmarks.report.details import (
    comparison_section,
    correctness_section,
    costs_section,
    environment_section,
    measures_section,
    workload_section,
)
from frcnn.benchmarks.report.document import Block, Cell, Document, Headline, Paragraph, Section, Table, Tone
from frcnn.benchmarks.report.formatting import NONE, keys, ms, number, percent, size_text
from frcnn.benchmarks.report.plane_figures import accuracy_figures, batch_figure, curve_figures
from frcnn.benchmarks.report.ranking import first_batch, head_measure, headline, ranks, ratio_of
from frcnn.benchmarks.report.results import Ratio, Results, Row, Status
from frcnn.benchmarks.report.roofline_figure import ceilings_table, roofline_figures, work_table
from frcnn.benchmarks.report.row_figures import latency_figures, ratio_figure, stage_figure

__all__ = ["STATUS_TONES", "document_of", "rows_table"]

STATUS_TONES: dict[Status, Tone] = {"ok": "good", "wrong": "bad", "failed": "bad", "unavailable": "quiet"}


def document_of(results: Results) -> Document:
    """Return the report of a run."""
    work, system = results.workload, results.environment
    hardware = system.gpu.name if system.gpu is not None and work.device == "cuda" else system.cpu
    sections = (
        _rows_section(results),
        comparison_section(results),
        Section(name="latency", title="Latency", blocks=tuple(latency_figures(results))),
        Section(name="batches", title="Batches", blocks=_present(batch_figure(results))),
        Section(name="stages", title="Stages", blocks=_present(stage_figure(results))),
        _accuracy_section(results),
        Section(name="curves", title="Cost curves", blocks=tuple(curve_figures(results))),
        _roofline_section(results),
        costs_section(results),
        measures_section(results),
        workload_section(results),
        environment_section(results),
        _reading_section(results),
    )
    return Document(
        title=f"{work.model} against eager torchvision",
        subtitle=f"{hardware}, {work.device}, {work.suite} suite, {system.date}",
        headline=_with_partial(results, headline(results)),
        sections=tuple(section for section in sections if section.blocks),
    )


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def _with_partial(results: Results, answer: Headline) -> Headline:
    if not results.partial:
        return answer
    reason = results.partial_reason.rstrip(".") or "it was stopped"
    note = f"This run is partial: {reason}. What is here was measured in full."
    return Headline(figure=answer.figure, text=answer.text, remarks=(note, *answer.remarks), tone="warning")


def rows_table(results: Results) -> Table:
    """Return every row with its status; wrong ones have no ratio and no rank, absent ones their reason."""
    places, letters = ranks(results), keys(results)
    batch = first_batch(results)
    rows = []
    for row in results.rows:
        whole, network = head_measure(results, row), row.measure("network", batch)
        remark = "; ".join(text.rstrip(".") for text in (_sized(row), row.note) if text)
        rows.append(
            (
                Cell(text=row.name, key=letters[row.id][0], small=remark),
                Cell(text=row.status, tone=STATUS_TONES[row.status], small=row.reason),
                ms(whole.p50_ms if whole else None),
                ms(whole.p90_ms if whole else None),
                ms(whole.p99_ms if whole else None),
                number(whole.fps) if whole else NONE,
                _times_eager(row, ratio_of(row, whole)),
                ms(network.p50_ms if network else None),
                _times_eager(row, ratio_of(row, network)),
                str(places.get(row.id, NONE)),
            )
        )
    times = ("p50 ms", "p90 ms", "p99 ms", "images/s", "x eager")
    whole_name = "image to boxes" if batch == 1 else f"image to boxes, batch {batch}"
    return Table(
        caption=f"All rows; {whole_name}, and the network alone",
        columns=("way", "status", *times, "network p50 ms", "network x eager", "rank"),
        rows=tuple(rows),
        texts=2,
    )


def _sized(row: Row) -> str:
    return "on equal-sized images" if row.images == "equal-sized" else ""


def _times_eager(row: Row, ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell(text="reference" if row.id == row.reference and row.status == "ok" else NONE)
    return Cell(text=f"{ratio.median:.2f}x", small=f"{ratio.low:.2f} to {ratio.high:.2f}")


def _rows_section(results: Results) -> Section:
    blocks: list[Block] = [rows_table(results)]
    if results.noise.too_noisy:
        blocks.append(
            Paragraph(text="There are no ranks: the system was too noisy to tell rows apart.", tone="warning")
        )
    elif results.noise.not_told_apart:
        blocks.append(Paragraph(text="Rows that share a rank cannot be told apart in this run."))
    figure = ratio_figure(results)
    return Section(name="rows", title="Rows", blocks=(*blocks, *_present(figure)))


def _accuracy_section(results: Results) -> Section:
    table = correctness_section(results)
    figures = accuracy_figures(results)
    if not table and not figures:
        return Section(name="accuracy", title="Speed against accuracy", blocks=())
    about = Paragraph(
        text="Every row's detections are compared with eager's on the same images, in this run. mAP on annotated"
        " images is a matter of frcnn eval."
    )
    return Section(name="accuracy", title="Speed against accuracy", blocks=(about, *figures, *table))


def _roofline_section(results: Results) -> Section:
    roofline = results.roofline
    if roofline is None:
        return Section(name="roofline", title="Roofline", blocks=())
    letters = keys(results)
    reached = [
        (Cell(text=row.name, key=letters[row.id][0]), f"{row.device} {row.precision}", percent(row.of_roofline))
        for row in results.rows
        if row.of_roofline is not None and row.status == "ok"
    ]
    floors = tuple((kind, ms(floor)) for kind, floor in roofline.floors_ms.items())
    blocks: list[Block] = [*roofline_figures(results), ceilings_table(roofline), work_table(results, roofline)]
    if floors:
        caption = f"Least time of the network, {size_text(roofline.canvas)}, batch 1"
        blocks.append(Table(caption=caption, columns=("device, precision", "ms"), rows=floors))
    if reached:
        caption = "Share of the roofline: least time / time of the network"
        blocks.append(
            Table(caption=caption, columns=("way", "device, precision", "share"), rows=tuple(reached), texts=2)
        )
    return Section(name="roofline", title="Roofline", blocks=tuple(blocks))


def _reading_section(results: Results) -> Section:
    noise = results.noise
    ratio = (
        "“x eager” is eager's time divided by the row's time, taken within a round, in which all rows run one after the"
        " other on the same images; the figure is the median over the rounds. In brackets is the interval that"
        " holds the true median with 95 % certainty, or the least and the largest round where there were fewer than 6."
    )
    null = f"Its noise was {percent(noise.noise)}" if noise.noise is not None else "Its noise could not be measured"
    verdict = (
        "To learn what the system itself adds, one row runs as two, interleaved like all others, and any difference"
        " between the two is noise."
        f" {null}; above {percent(noise.limit)} the run is called too noisy and nothing is ranked, and"
        " below it rows that differ by less than the noise share a rank."
    )
    blocks = [Paragraph(text=ratio), Paragraph(text=verdict)]
    if noise.how:
        blocks.append(Paragraph(text=f"How it was decided: {noise.how}"))
    return Section(name="reading", title="How to read this", blocks=tuple(blocks))
