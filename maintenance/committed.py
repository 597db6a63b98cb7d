"""What is committed under ``benchmarks/results``: each file read as what its content says it is.

A new kind of file is one more structure here and one more part in ``performance.md.j2``. A file of no known kind is
an error: nothing that was measured and committed goes unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from frcnn.benchmarks.report.results import Environment, Results
from frcnn.errors import ArtifactError
from frcnn.spec import Precision
from frcnn.spec.engine import Form, Target
from maintenance.noise import Noise

__all__ = [
    "AccuracyRow",
    "Agreement",
    "Committed",
    "EngineArtifact",
    "EngineSpeeds",
    "Evaluation",
    "FullSize",
    "GpuSession",
    "KernelResources",
    "KernelSpeeds",
    "LargeImage",
    "Named",
    "Noise",
    "ProviderAccuracy",
    "RaySpeeds",
    "Soak",
    "TrainerZoos",
    "Way",
    "Ways",
    "WebLoad",
    "ZooRow",
    "read_committed",
]

T = TypeVar("T")
Report = Mapping[str, Any]


class SystemGpu(msgspec.Struct, frozen=True, kw_only=True):
    """The GPU of a system."""

    name: str
    compute_capability: str


class System(msgspec.Struct, frozen=True, kw_only=True):
    """Where a report was made; not all of them say everything."""

    threads: int | None = None
    cpu: str = ""
    device: str = ""
    gpu: SystemGpu | None = None
    versions: dict[str, str] = {}
    command: str = ""
    date: str = ""


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A model family at its full size; eager is held to float64 with and without oneDNN."""

    family: str
    export_s: float
    export_peak_gb: float
    file_mb: float
    error_of_eager: tuple[Noise, ...]
    error_of_ours: Noise


class FullSize(msgspec.Struct, frozen=True, kw_only=True):
    """What ``make test-full`` writes."""

    environment: System
    families: tuple[Family, ...]


class KernelForm(msgspec.Struct, frozen=True, kw_only=True):
    """A form of a kernel compiled for an architecture."""

    kernel: str
    architecture: str
    threads: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    code_bytes: int


class KernelResources(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python -m maintenance.kernel_resources`` writes."""

    nvrtc: str
    rows: tuple[KernelForm, ...]


class Middle(msgspec.Struct, frozen=True, kw_only=True):
    """A median and the extremes of the rounds."""

    min: float
    median: float
    max: float


class KernelCase(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel on one input."""

    case: str
    batch: int
    boxes: str
    cache: str
    microseconds: dict[str, Middle]
    times_torchvision: Middle
    floor_us: float | None
    floor_bound: str | None = None
    of_floor: float | None = None
    target_us: float | None = None
    target_met: bool | None = None


class KernelSpeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What ``python -m maintenance.kernels`` writes, and a note by hand."""

    environment: System
    results: tuple[KernelCase, ...]
    note: str = ""
    failed: tuple[dict[str, str], ...] = ()


class EngineModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of ``maintenance.eager_forms``: its measurements of several kinds; an older report has artifacts, too."""

    model: str
    artifacts: tuple[dict[str, Any], ...]
    measurements: tuple[dict[str, Any], ...]


class EngineArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """An engine artifact: whether it detected, and which programs other than frcnn loaded its engine."""

    name: str
    model: str
    target: Target
    version: str
    form: Form
    precision: Precision
    canvas: str
    ran: bool
    build_s: float | None = None
    file_bytes: int | None = None
    loaded_by: tuple[str, ...] = ()


class EngineSpeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance.eager_forms``, ``pipeline_forms`` and ``tensorrt_forms`` write, and a note by hand."""

    environment: System
    artifacts: tuple[EngineArtifact, ...] = ()
    parity: tuple[dict[str, Any], ...] = ()
    stages: tuple[dict[str, Any], ...] = ()
    failed: tuple[dict[str, str], ...] = ()
    note: str = ""
    image: tuple[int, int] = (0, 0)
    models: tuple[EngineModel, ...]

    @property
    def each_artifact(self) -> tuple[EngineArtifact, ...]:
        """The artifacts by name, once each: several parts open one, which the first of them builds."""
        merged: dict[str, EngineArtifact] = {}
        for found in self.artifacts:
            known = merged.get(found.name, found)
            build_s = found.build_s if known.build_s is None else known.build_s
            merged[found.name] = msgspec.structs.replace(found, ran=known.ran or found.ran, build_s=build_s)
        return tuple(merged.values())


class SessionPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of ``maintenance/gpu_session.py``: how it ended, and its tests by outcome where it has some."""

    part: str
    shows: str
    ended: str
    seconds: float
    tests: dict[str, int] = {}


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Something tried by hand on the same system."""

    what: str
    tool: str = msgspec.field(name="with")
    ended: str
    figures: dict[str, float] = {}


class GpuSession(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance/gpu_session.py`` writes, and what else was tried then."""

    system: dict[str, Any]
    parts: tuple[SessionPart, ...]
    tried: tuple[Trial, ...] = ()


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Average precision, 0 to 1; None where there is nothing to average."""

    AP: float | None
    AP50: float | None
    AP75: float | None


class Evaluation(Measures, frozen=True, kw_only=True):
    """What ``frcnn eval --json`` writes."""

    eager: Measures | None
    images: int
    objects: int
    partial: bool
    command: str


class AccuracyRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AP of a model in one provider.

    Attributes:
        provider: as ``frcnn eval --provider`` takes it, or ``"eager"``.
        precision: of the heavy layers.
        rest: of an int8 model: what its float layers are computed in.
        ap: average precision, 0 to 1.
        images: annotated ones that it was measured on.
    """

    provider: Literal["eager", "cpu", "openvino"]
    precision: Literal["fp32", "bf16", "int8"]
    rest: Literal["fp32", "bf16"] = "fp32"
    ap: float
    images: int

    @property
    def bench_row(self) -> str:
        """The id of the row in the results of ``frcnn bench`` that has its speed."""
        if self.provider == "eager":
            return "eager-fp32"
        in_bf16 = self.precision == "bf16" or self.rest == "bf16"
        name = "onnxruntime-cpu" if self.provider == "cpu" else "openvino-bf16" if in_bf16 else "openvino"
        return f"{name}:{'int8' if self.precision == 'int8' else 'fp32'}"


class ProviderAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """AP of a checkpoint's models in every precision and provider: ``int8-demo.json``."""

    checkpoint: str
    environment: System
    rows: tuple[AccuracyRow, ...]


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """What ``make soak-full`` writes: figures by attack."""

    environment: Environment
    attacks: dict[str, dict[str, Any]]


class RaySpeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance.ray_speeds`` writes: figures of each candidate, each with its median and range."""

    environment: System
    images_per_worker: int
    candidates: dict[str, dict[str, dict[str, float]]]


class WebLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance.web_load`` writes."""

    environment: System
    clients: int
    seconds: float
    sent: int
    answered: int
    wrong: tuple[str, ...]
    images_a_second: float
    latency_ms: dict[str, float]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to detect, from a number of clients at once."""

    way: str
    median_ms: float
    clients: int = 1
    images_per_s: float | None = None


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance.cpp_speed`` and ``maintenance.triton_speeds`` write."""

    environment: System
    rounds: int
    rows: tuple[Way, ...]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Boxes of ours against those of the trainer's own model, all images together, as ``frcnn compare`` counts them."""

    pairs: int
    tied: int
    unmatched: int
    relabelled: int
    box_px: float
    score: float
    agrees: bool


class ZooRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A configuration of a trainer's zoo.

    Attributes:
        trainer: whose zoo.
        configuration: its path there.
        outcome: ``"same network"`` as another one, whose row has the figures.
        reason: what ``frcnn export`` said, what the first difference is, or why it was not tried.
        same_as: the configuration with the same network.
        images: photographs that both detected in.
        short_side: that images were resized to where it is not the configuration's own.
        detections: of the trainer's own model.
        agreement: of what was exported, in ONNX Runtime.
        in_float64: of our restatement in eager torchvision, on MMDetection's pixels, where what was exported differs.
    """

    trainer: Literal["detectron2", "mmdetection"]
    configuration: str
    outcome: Literal["agrees", "differs", "refused", "same network", "not tried"]
    reason: str = ""
    same_as: str = ""
    images: int = 0
    short_side: int | None = None
    detections: int = 0
    agreement: Agreement | None = None
    in_float64: Agreement | None = None


class TrainerZoos(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance.trainers`` writes."""

    environment: System
    trainers: dict[str, str]  # trainer -> version
    weights: str
    limit_px: float
    limit_score: float
    configurations: tuple[ZooRow, ...]


class SlicedRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one way found in the large image; shares from 0 to 1."""

    way: str
    recall_small: float
    recall_medium: float
    recall_large: float
    recall: float
    precision: float
    detections: int
    seconds: float


class PeakMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The peak of a process before it decoded an image, after that, and after it detected in its slices."""

    megapixels: float
    before_mib: float
    decoded_mib: float
    after_mib: float


class LargeImage(msgspec.Struct, frozen=True, kw_only=True):
    """What ``maintenance.slicing`` writes."""

    environment: System
    image: tuple[int, int]
    photographs: int
    objects: dict[str, int]
    score: float
    sliced: tuple[SlicedRow, ...]
    memory: PeakMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Generic[T]):
    """A report and the name of its file."""

    file: str
    report: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """All that is committed, by kind, in the order of the files' names."""

    runs: tuple[Named[Results], ...]
    providers: tuple[Named[ProviderAccuracy], ...]
    engines: tuple[Named[EngineSpeeds], ...]
    kernels: tuple[Named[KernelSpeeds], ...]
    sessions: tuple[Named[GpuSession], ...]
    evaluations: tuple[Named[Evaluation], ...]
    full_size: tuple[Named[FullSize], ...]
    resources: tuple[Named[KernelResources], ...]
    soaks: tuple[Named[Soak], ...]
    ray: tuple[Named[RaySpeeds], ...]
    web: tuple[Named[WebLoad], ...]
    ways: tuple[Named[Ways], ...]
    zoos: tuple[Named[TrainerZoos], ...]
    large_images: tuple[Named[LargeImage], ...]


def read_committed(folder: Path) -> Committed:
    """Read every ``*.json`` of a folder.

    Raises:
        ArtifactError: a file is of no known kind, or damaged.
    """
    found = [(path.name, _read(path)) for path in sorted(folder.glob("*.json"))]

    def of(kind: type[T]) -> tuple[Named[T], ...]:
        return tuple(Named(file=name, report=report) for name, report in found if isinstance(report, kind))

    return Committed(
        runs=of(Results),
        providers=of(ProviderAccuracy),
        engines=of(EngineSpeeds),
        kernels=of(KernelSpeeds),
        sessions=of(GpuSession),
        evaluations=of(Evaluation),
        full_size=of(FullSize),
        resources=of(KernelResources),
        soaks=of(Soak),
        ray=of(RaySpeeds),
        web=of(WebLoad),
        ways=of(Ways),
        zoos=of(TrainerZoos),
        large_images=of(LargeImage),
    )


_HINT: Final = "maintenance.committed lists the kinds that the page of results knows"


def _read(path: Path) -> object:
    try:
        content = path.read_bytes()
        report = msgspec.json.decode(content)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"cannot read {path}: {error}", hint="restore it, or measure again") from error
    kind = _kind(report) if isinstance(report, dict) else None
    if kind is None:
        raise ArtifactError(f"{path} is no kind of result that is known", hint=_HINT)
    if kind is Results:
        return Results.read(path)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{path}, read as {kind.__name__}: {error}", hint="measure again") from error


def _kind(report: Report) -> type[Any] | None:
    """Tell by the names at the top, and by those of the first result where two kinds share them."""
    if {"workload", "rows", "noise"} <= report.keys():
        return Results
    if {"AP", "AP50", "per_class"} <= report.keys():
        return Evaluation
    if "configurations" in report:
        return TrainerZoos
    if "families" in report:
        return FullSize
    if "attacks" in report:
        return Soak
    if "images_per_worker" in report:
        return RaySpeeds
    if "latency_ms" in report:
        return WebLoad
    if "sliced" in report:
        return LargeImage
    if "rounds" in report:
        return Ways
    if {"system", "parts"} <= report.keys():
        return GpuSession
    if "models" in report:
        return EngineSpeeds
    if {"nvrtc", "rows"} <= report.keys():
        return KernelResources
    if {"checkpoint", "rows"} <= report.keys():
        return ProviderAccuracy
    if "results" in report:
        first: Report = next(iter(report["results"]), {})
        return KernelSpeeds if "case" in first else None
    return None
