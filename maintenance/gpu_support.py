"""What has run on which GPU, from the committed results: the data that frcnn ships, and the cells of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from frcnn.errors import ArtifactError
from frcnn.spec import PRECISIONS
from frcnn.spec.engine import Form, Target
from frcnn.spec.gpu_runs import GENERATIONS, GpuRun, generation_of
from frcnn.spec.supported_gpus import precisions
from maintenance.committed import Committed, EngineSpeeds, Named

OURS: Final = "frcnn, PyTorch's networks, fp16"
"""The form of ``maintenance.pipeline_forms`` that is told of."""

ENGINES: Final[tuple[tuple[Target, Form], ...]] = (
    ("tensorrt", "plan"),
    ("tensorrt", "split"),
    ("tensorrt-rtx", "split"),
    ("onnxruntime", "split"),
)
"""Columns of the table."""


def runs_of(committed: Committed) -> tuple[GpuRun, ...]:
    """Return every artifact that ran on a GPU and was not wrong, the latest of those that differ in the date only.

    Raises:
        ArtifactError: a result does not tell its GPU, or one of a generation that the table does not have.
    """
    latest: dict[tuple[str, ...], GpuRun] = {}
    for run in sorted([*_benchmarks(committed), *_engines(committed)], key=lambda run: (run.date, run.result)):
        if generation_of(run.compute_capability) is None:
            raise ArtifactError(
                f"{run.result}: no generation has the compute capability {run.compute_capability!r}",
                hint="frcnn.spec.gpu_runs lists the generations",
            )
        latest[run.target, run.form, run.version, run.precision, run.gpu] = run
    return tuple(latest.values())


def _benchmarks(committed: Committed) -> Iterator[GpuRun]:
    for named in committed.runs:
        system = named.report.environment
        for row in named.report.rows:
            if row.status == "ok" and row.engine is not None and system.gpu is not None:
                yield GpuRun(
                    **msgspec.structs.asdict(row.engine),
                    gpu=system.gpu.name,
                    compute_capability=system.gpu.compute_capability,
                    date=system.date[:10],
                    result=named.file,
                )


def _engines(committed: Committed) -> Iterator[GpuRun]:
    for named in committed.engines:
        system = named.report.environment
        for artifact in named.report.artifacts:
            if not artifact.ran:
                continue
            if system.gpu is None:
                raise ArtifactError(f"{named.file}: {artifact.name} ran on a GPU unknown", hint="measure again")
            yield GpuRun(
                target=artifact.target,
                version=artifact.version,
                form=artifact.form,
                precision=artifact.precision,
                gpu=system.gpu.name,
                compute_capability=system.gpu.compute_capability,
                date=system.date[:10],
                result=named.file,
                loaded_by=artifact.loaded_by,
            )


def pipelines(committed: Committed) -> Iterator[tuple[Named[EngineSpeeds], dict[str, float]]]:
    """Yield each report of the pipeline with PyTorch's networks, and the median ms of one image by form."""
    for named in committed.engines:
        for model in named.report.models:
            for found in model.measurements:
                if (found["what"], found["batch"]) == ("image", 1) and OURS in found["ways"]:
                    yield named, {name: times["gpu_ms"]["p50"] for name, times in found["ways"].items()}


def data_text(runs: Sequence[GpuRun]) -> str:
    """Return ``gpu_runs.json``."""
    return msgspec.json.format(msgspec.json.encode(runs), indent=1).decode() + "\n"


def cell(runs: Sequence[GpuRun], generation: str, target: Target, form: Form) -> str:
    """Return what is known of an engine on a generation: by precision where they differ."""
    served = {precision for capability in GENERATIONS[generation] for precision in precisions(target, capability)}
    found = {
        run.precision: f"run on {run.gpu.removeprefix('NVIDIA ')}, {run.date}"
        for run in runs
        if (run.target, run.form) == (target, form) and generation_of(run.compute_capability) == generation
    }
    texts = {p: found.get(p, "not run" if p in served else "not served") for p in PRECISIONS}
    if len(set(texts.values())) == 1:
        return texts[PRECISIONS[0]]
    return "; ".join(
        f"{', '.join(p for p in PRECISIONS if texts[p] == text)}: {text}" for text in dict.fromkeys(texts.values())
    )
