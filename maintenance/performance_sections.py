"""The parts of docs/performance.md, and the README's table: each from the committed files of one kind.

A part for which nothing is committed says so and names the command that measures it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from frcnn.benchmarks.report.content import rows_table
from frcnn.benchmarks.report.document import Cell, Table
from frcnn.benchmarks.report.formatting import NONE, ms, number, percent, ratio_text, size_text
from frcnn.benchmarks.report.markdown_page import escaped, table_markdown
from frcnn.benchmarks.report.ranking import head_measure, headline, ratio_of
from frcnn.benchmarks.report.results import Results, Row
from maintenance.committed import (
    Committed,
    CpuModel,
    CpuSpeeds,
    EngineModel,
    EngineSpeeds,
    Evaluation,
    FullSize,
    GpuSession,
    KernelForm,
    KernelResources,
    KernelSpeeds,
    Named,
    Noise,
)

__all__ = ["page", "readme_table"]

COMMAND: Final = "python -m maintenance.performance_page"
_BENCH_GPU: Final = "frcnn bench my.pth --suite full --device cuda -o report/"
_BENCH_CPU: Final = "frcnn bench my.pth --suite full -o report/"


def page(committed: Committed) -> str:
    """Return docs/performance.md."""
    parts = [
        "# Performance",
        "Every number on this page is read from a file in [benchmarks/results](../benchmarks/results). The page is made"
        " by\n"
        f"`make performance` (`{COMMAND}`); a test fails when it and the files disagree.",
        "## On a CPU",
        *_runs(committed.runs, "cpu"),
        *(part for named in committed.cpu for part in _cpu(named)),
        *_missing(
            any(named.report.workload.device == "cpu" for named in committed.runs) or committed.cpu,
            _BENCH_CPU,
        ),
        "## On an NVIDIA GPU",
        *(part for named in committed.sessions for part in _session(named)),
        *_missing(committed.sessions, "maintenance/gpu_session.py"),
        "### Whole detectors",
        *_runs(committed.runs, "cuda"),
        *_missing(any(named.report.workload.device == "cuda" for named in committed.runs), _BENCH_GPU),
        "### Eager and engines",
        *(part for named in committed.engines for part in _engines(named)),
        *_missing(_has_engine(committed), "maintenance/gpu_session.py --rest", "No engine was"),
        "### Kernels against torchvision's",
        *(part for named in committed.kernels for part in _kernels(named)),
        *_missing(committed.kernels, "make bench-gpu"),
        "## mAP",
        *(part for named in committed.evaluations for part in _evaluation(named)),
        *_missing(
            committed.evaluations,
            "frcnn eval model.onnx --checkpoint my.pth --annotations instances.json --images folder/ --json eval.json",
        ),
        "## Agreement with eager in float64",
        *(part for named in committed.full_size for part in _full_size(named)),
        *_missing(committed.full_size, "make test-full"),
        "## What the compiled kernels take",
        *(part for named in committed.resources for part in _resources(named)),
        *_missing(committed.resources, "python -m maintenance.kernel_resources -o kernel-resources.json"),
    ]
    return "\n\n".join(parts) + "\n"


def readme_table(committed: Committed) -> str:
    """Return what the README says of speed: a sentence and a table for each file."""
    parts = [part for named in committed.cpu for part in _cpu_table(named, folder="benchmarks/results")]
    if committed.runs:
        rows = [row for named in committed.runs for row in _readme_rows(named.report)]
        files = ", ".join(_link(named.file, "benchmarks/results") for named in committed.runs)
        columns = ("model", "device", "way", "image to boxes, p50", "times eager")
        parts.append(f"Image to boxes, batch 1. From {files}.")
        parts.append(table_markdown(Table(caption="", columns=columns, rows=tuple(rows), texts=3)))
    if not parts:
        parts.append(f"Not measured yet; `{_BENCH_CPU}` measures it.")
    parts.append("[docs/performance.md](docs/performance.md) has all that was measured.")
    return "\n\n".join(parts)


def _has_engine(committed: Committed) -> bool:
    models = (model for named in committed.engines for model in named.report.models)
    return any(artifact["runs"] for model in models for artifact in model.artifacts)


def _missing(there: object, command: str, what: str = "Not") -> tuple[str, ...]:
    return () if there else (f"{what} measured yet; `{command}` measures it.",)


def _link(file: str, folder: str) -> str:
    return f"[`benchmarks/results/{file}`]({folder}/{file})"


def _from(file: str, command: str = "", date: str = "") -> str:
    made = f", made by `{command}`" if command else ""
    return f"From {_link(file, '../benchmarks/results')}{made}{f', {date}' if date else ''}."


def _runs(runs: Iterable[Named[Results]], device: str) -> Iterable[str]:
    for named in runs:
        results = named.report
        if results.workload.device != device:
            continue
        system, answer = results.environment, headline(results)
        hardware = system.gpu.name if system.gpu is not None and device == "cuda" else system.cpu
        remarks = [*((f"This run is partial: {results.partial_reason}",) if results.partial else ()), *answer.remarks]
        threads = f"{system.threads} thread{'s' if system.threads != 1 else ''}"
        yield f"#### {escaped(results.workload.model)}, {escaped(hardware)}, {threads}"
        yield f"**{escaped(answer.text)}**"
        if remarks:
            yield "\n".join(f"- {escaped(remark)}" for remark in remarks)
        yield table_markdown(rows_table(results))
        yield _from(named.file, system.command, system.date)


def _readme_rows(results: Results) -> Iterable[tuple[str, ...]]:
    for row in results.rows:
        measure = head_measure(results, row)
        if row.status != "ok" or measure is None:
            continue
        ratio = "reference" if row.id == row.reference else ratio_text(ratio_of(row, measure))
        yield results.workload.model, row.device, _named(row), f"{ms(measure.p50_ms)} ms", ratio


def _named(row: Row) -> str:
    is_unsaid = row.images == "equal-sized" and "equal-sized" not in row.name
    return f"{row.name} (equal-sized images)" if is_unsaid else row.name


def _cpu(named: Named[CpuSpeeds]) -> Iterable[str]:
    yield from _cpu_table(named, folder="../benchmarks/results")
    yield "Where our time goes, and how far the convolutions are from the system's matrix product:"
    rows = tuple(
        (
            model.model,
            stage.name,
            ms(stage.ms),
            number(stage.gflop),
            percent(stage.of_sgemm, 0) if stage.gflop else NONE,
        )
        for model in named.report.results
        for stage in model.stages
    )
    yield table_markdown(Table(caption="", columns=("model", "stage", "ms", "GFLOP", "of sgemm"), rows=rows, texts=2))
    yield "Distance from eager in float64, on the same tensors:"
    yield table_markdown(
        Table(
            caption="",
            columns=("model", *_NOISE_COLUMNS),
            rows=tuple(
                (model.model, *_noise_cells(model.error_of_eager, model.error_of_ours))
                for model in named.report.results
            ),
        )
    )


def _cpu_table(named: Named[CpuSpeeds], *, folder: str) -> Iterable[str]:
    report = named.report
    rounds = sorted({model.rounds for model in report.results})
    system = report.environment
    yield (
        f"Whole images, preprocessing included, batch 1, fp32, {system.threads} threads of an {system.cpu};\n"
        "medians, and times eager's speed with the least and largest of"
        f" {' or '.join(map(str, rounds))} interleaved rounds.\n"
        f"From {_link(named.file, folder)}, made by `make bench-cpu`."
    )
    heads = ("model and canvas", "eager torchvision", "torchvision's own export, ONNX Runtime", "frcnn, ONNX Runtime")
    lines = [heads, ("---",) * 4, *map(_cpu_row, report.results)]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cpu_row(model: CpuModel) -> tuple[str, ...]:
    eager, *others = model.rows
    cells = [f"`{model.model}`, {size_text(model.canvas)}", f"{eager.ms[1]:.0f} ms"]
    for row in others:
        low, middle, high = row.times_eager
        cells.append(f"{row.ms[1]:.0f} ms, {middle:.2f}x ({low:.2f} to {high:.2f})")
    return tuple(cells)


_NOISE_COLUMNS: Final = (
    "eager fp32, box px (rms)",
    "ours, box px (rms)",
    "eager fp32, box px (most)",
    "ours, box px (most)",
    "eager fp32, score (most)",
    "ours, score (most)",
    "ours, unmatched",
)


def _noise_cells(eager: Noise, ours: Noise) -> tuple[str, ...]:
    pairs = (
        (eager.box_px_rms, ours.box_px_rms),
        (eager.box_px_max, ours.box_px_max),
        (eager.score_max, ours.score_max),
    )
    return *(number(value, 2) for pair in pairs for value in pair), percent(ours.unmatched)


def _full_size(named: Named[FullSize]) -> Iterable[str]:
    yield (
        "Every family at full size, calibrated random weights, the same tensor to all. Eager fp32 is measured with and"
        " without\noneDNN; the run with the larger box error is shown. Eager's own error is"
        " nothing but\nthe rounding of float32."
    )
    rows = []
    for family in named.report.families:
        worst = max(family.error_of_eager, key=lambda noise: noise.box_px_rms)
        cells = _noise_cells(worst, family.error_of_ours)
        rows.append((family.family, *cells, f"{family.export_s:.0f}", number(family.file_mb)))
    columns = ("family", *_NOISE_COLUMNS, "export s", "file MB")
    yield table_markdown(Table(caption="", columns=columns, rows=tuple(rows)))
    yield _from(named.file, "make test-full")


def _resources(named: Named[KernelResources]) -> Iterable[str]:
    report = named.report
    forms: dict[str, list[KernelForm]] = defaultdict(list)
    for row in report.rows:
        forms[row.kernel.partition(" ")[0]].append(row)
    architectures = ", ".join(dict.fromkeys(row.architecture for row in report.rows))
    yield (
        f"Compiled by NVRTC {report.nvrtc} for {architectures};\n"
        "the most that any form of a kernel takes on any of them."
    )
    rows = tuple(
        (
            kernel,
            str(len(found)),
            str(max(form.registers for form in found)),
            f"{max(form.shared_bytes for form in found) / 1024:.1f}",
            str(max(form.spill_bytes for form in found)),
            f"{max(form.code_bytes for form in found) / 1024:.1f}",
        )
        for kernel, found in forms.items()
    )
    columns = ("kernel", "forms x architectures", "registers", "shared KiB", "spilled bytes", "code KiB")
    yield table_markdown(Table(caption="", columns=columns, rows=rows))
    yield _from(named.file, "python -m maintenance.kernel_resources -o benchmarks/results/kernel-resources.json")


def _session(named: Named[GpuSession]) -> Iterable[str]:
    """Tell what was shown on a GPU, and what was tried beside."""
    system, report = named.report.system, named.report
    yield f"{escaped(str(system['gpu']))}; {system['cores']} cores, {escaped(str(system['system']))}."
    rows = tuple(
        (
            part.shows,
            part.ended,
            ", ".join(f"{count} {outcome}" for outcome, count in part.tests.items() if count) or NONE,
            f"{part.seconds:.0f}",
        )
        for part in report.parts
    )
    yield table_markdown(Table(caption="", columns=("what", "ended", "tests", "seconds"), rows=rows, texts=3))
    if report.tried:
        yield "Tried by hand on the same system:"
        rows = tuple(
            (
                trial.what,
                trial.tool,
                trial.ended,
                ", ".join(f"{name} {value:.6g}" for name, value in trial.figures.items()) or NONE,
            )
            for trial in report.tried
        )
        yield table_markdown(Table(caption="", columns=("what", "with", "ended", "figures"), rows=rows, texts=4))
    yield _from(named.file, "maintenance/gpu_session.py", str(system["date"]))


def _kernels(named: Named[KernelSpeeds]) -> Iterable[str]:
    rows = []
    for case in named.report.results:
        ways = "; ".join(f"{way} {number(spread.median)}" for way, spread in case.microseconds.items())
        faster = case.times_torchvision
        rows.append(
            (
                f"{case.case}, batch {case.batch}{f', {case.boxes} boxes' if case.boxes else ''}",
                case.cache,
                ways,
                f"{faster.median:.1f}x ({faster.min:.1f} to {faster.max:.1f})",
                NONE if case.floor_us is None else f"{number(case.floor_us)} ({case.floor_bound})",
                NONE if case.of_floor is None else percent(case.of_floor, 0),
                NONE if case.target_us is None else f"{case.target_us:.0f}, {'met' if case.target_met else 'missed'}",
            )
        )
    columns = ("case", "L2", "µs a call", "times torchvision", "floor µs", "of the floor", "target µs")
    system = named.report.environment
    yield (
        f"{escaped(system.device)}; medians of the rounds. The floor is what memory, arithmetic or one launch allow at"
        " best;\ncold times are held against it, warm ones against the target."
    )
    yield table_markdown(Table(caption="", columns=columns, rows=tuple(rows), texts=3))
    if named.report.failed:
        yield "\n".join(f"- Not measured: {escaped(f['case'])}: {escaped(f['error'])}" for f in named.report.failed)
    yield _from(named.file, system.command, system.date)


def _engines(named: Named[EngineSpeeds]) -> Iterable[str]:
    system = named.report.environment
    rows = [row for model in named.report.models for row in _engine_rows(model)]
    refused = [
        f"- {escaped(model.model)}, {escaped(artifact['name'])} does not run here: {escaped(artifact['refusal'])}"
        for model in named.report.models
        for artifact in model.artifacts
        if artifact.get("refusal")
    ]
    yield f"{escaped(system.device)}; medians."
    if refused:
        yield "\n".join(refused)
    columns = ("model, what, batch", "way", "GPU ms", "clock ms", "times eager")
    yield table_markdown(Table(caption="", columns=columns, rows=tuple(rows), texts=2))
    yield _from(named.file, system.command, system.date)


def _engine_rows(model: EngineModel) -> Iterable[tuple[Cell | str, ...]]:
    for found in model.measurements:
        for way, times in found.get("ways", {}).items():
            faster = found.get("times_eager", {}).get(way)
            yield (
                f"{model.model}, {found['what']}, batch {found['batch']}",
                way,
                ms(times["gpu_ms"]["p50"]),
                ms(times["wall_ms"]["p50"]),
                f"{faster['ratio']:.2f}x of {faster['eager']}" if faster else NONE,
            )


def _evaluation(named: Named[Evaluation]) -> Iterable[str]:
    report = named.report
    sides = [("model", report), *([("eager torchvision", report.eager)] if report.eager is not None else [])]
    rows = tuple(
        (name, *(NONE if value is None else f"{value:.3f}" for value in (side.AP, side.AP50, side.AP75)))
        for name, side in sides
    )
    partial = " The evaluation is partial." if report.partial else ""
    yield f"{report.objects} objects in {report.images} images.{partial}"
    yield table_markdown(Table(caption="", columns=("way", "AP", "AP50", "AP75"), rows=rows))
    yield _from(named.file, report.command)
