"""Build an engine artifact from ``model.onnx`` or a live model: steps, precision proof, kernels, engines, one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import msgspec
import onnx

from frcnn._version import __version__
from frcnn.errors import UsageError
from frcnn.exporter.engine.build_gpu import refuse_unserved, require_gpu
from frcnn.exporter.engine.builder import BuildSettings, build_serialized, check_compute_capabilities, import_builder
from frcnn.exporter.engine.kernels import check_architectures, kernel_parts
from frcnn.exporter.engine.precision_proof import Layer, Proof, operator_layer, prove, read_layers
from frcnn.exporter.engine.profiles import DEFAULT_BATCH, make_profiles, static_canvases
from frcnn.exporter.engine.shapes import initializer_bytes, memory_needs, shapes_of_profile
from frcnn.exporter.engine.steps import Steps, one_engine, steps_between_operators
from frcnn.exporter.graph.source_model import SourceModel, is_onnx, read_source_model, require_precision
from frcnn.files import temporary_folder, writable_folder
from frcnn.files.archive import write_archive
from frcnn.plugins.cuda.compiler import OLDEST_PTX, compiler_version
from frcnn.plugins.tensorrt import register
from frcnn.plugins.tensorrt.library import load_tensorrt_plugins
from frcnn.spec import Precision
from frcnn.spec.engine import (
    ENGINE_SCHEMA_VERSION,
    PRECISION_PART,
    TARGETS,
    EngineManifest,
    EngineStep,
    MemoryNeeds,
    Part,
    Profile,
    Target,
)
from frcnn.spec.supported_gpus import architecture_of

if TYPE_CHECKING:
    import torch

__all__ = ["Built", "Progress", "Request", "build_artifact", "build_engine", "prepare"]

Progress = Callable[[str, float], None]
"""Is called with the current task and the finished share of all work, 0 to 1, also from other threads."""

_KERNELS_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Options of a build, see :func:`build_engine`; ``settings`` are those of the builder."""

    target: Target = "tensorrt-rtx"
    batch: str = DEFAULT_BATCH
    size: str | None = None
    architectures: tuple[str, ...] | None = None
    settings: BuildSettings = field(default_factory=BuildSettings)

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"target: expected {' or '.join(TARGETS)}, got {self.target!r}")
        level = self.settings.optimization_level
        if level is not None and not 0 <= level <= 5:
            raise UsageError(f"--optimization-level: expected 0 to 5, got {level}")
        if self.target == "tensorrt-rtx":
            refuse_unserved(self.settings.compute_capabilities, self.architectures or ())
            for name, value in (("optimization-level", level), ("timing-cache", self.settings.timing_cache)):
                if value is not None:
                    raise UsageError(
                        f"--{name} goes with --target tensorrt; TensorRT-RTX measures nothing while it builds",
                        hint="leave it out",
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A finished build: the manifest of the artifact, and the proof of its precision."""

    manifest: EngineManifest
    proof: Proof


def build_engine(
    model: str | os.PathLike[str] | torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    target: Target = "tensorrt-rtx",
    batch: int | str = DEFAULT_BATCH,
    size: str | None = None,
    precision: Precision | None = None,
    labels: Sequence[str] | None = None,
    architectures: Sequence[str] | None = None,
    compute_capabilities: Sequence[str] = (),
    optimization_level: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> EngineManifest:
    """Build an engine artifact (``*.frcnn``) that :class:`frcnn.runtime.Detector` runs on an NVIDIA GPU.

    The target ``"tensorrt-rtx"`` needs no GPU. The file is written completely or not at all.

    Args:
        model: path of a ``model.onnx`` written by :func:`~frcnn.exporter.export_onnx`, or a ``FasterRCNN`` in eval
            mode.
        path: file to write.
        target: ``"tensorrt-rtx"``, or ``"tensorrt"``, which builds on the GPU that the engine is for.
        batch: images in a batch, either a number or min, opt and max like ``"1:1:8"``.
        size: canvases, height x width in pixels, like ``"800x1344,1344x800"``, or ranges of them, min, opt and max,
            like ``"320x320:800x1088:1344x1344"``. Default: the canvases of the file, or every size that the model's
            resizing produces.
        precision: of the convolutions and matrix products, ``"fp32"``, ``"fp16"`` or ``"bf16"``; must be that of the
            ``model.onnx``. Default: that of the ``model.onnx``, or ``"fp32"`` for a live model.
        labels: class names, for a live model only.
        architectures: ``sm_NN`` names to compile the CUDA kernels for, in addition to PTX. Default: those of
            ``compute_capabilities``.
        compute_capabilities: of the GPUs that the engines are for, like ``"8.9"``. Default: the target's default.
        optimization_level: TensorRT's builder optimization level, 0 to 5, for ``"tensorrt"`` only.
        timing_cache: file for TensorRT's timing cache, for ``"tensorrt"`` only.
        progress: is called with the current task and the finished share of all work, 0 to 1.

    Returns:
        The manifest of the artifact.

    Raises:
        ArtifactError: the file is not a ``model.onnx`` written by frcnn.
        ExportError: TensorRT fails, or a layer has another type than ``precision`` requires.
        KernelError: there is no kernel for an operator of the model.
        MissingDependencyError: TensorRT, the CUDA compiler or, for a live model, torch is not installed.
        OutputError: the artifact cannot be written.
        UnsupportedModelError: a part of the live model cannot be exported.
        UsageError: an option is not valid, or not supported by the model.
    """
    request = Request(
        target=target,
        batch=str(batch),
        size=size,
        architectures=None if architectures is None else tuple(architectures),
        settings=BuildSettings(
            compute_capabilities=tuple(compute_capabilities),
            optimization_level=optimization_level,
            timing_cache=None if timing_cache is None else Path(timing_cache),
        ),
    )
    if isinstance(model, str | os.PathLike):
        source = _source_of_file(Path(model), precision, labels)
    else:
        source = _source_of_live_model(model, request, precision or "fp32", labels)
    return build_artifact(source, path, request, progress=progress).manifest


def build_artifact(
    source: SourceModel, path: str | os.PathLike[str], request: Request, *, progress: Progress | None = None
) -> Built:
    """Build an artifact from a source model; see :func:`build_engine`."""
    writable_folder(Path(path).parent)
    report: Progress = progress or (lambda _what, _share: None)
    profiles = make_profiles(source.manifest, batch=request.batch, size=request.size)
    trt, capabilities, architectures = prepare(request)
    report("reading the graph", 0.0)
    steps = _steps(trt, source.model, request.target, capabilities)
    proof = _prove(steps, source.manifest.precision)
    codes = kernel_parts(
        steps,
        source.manifest.model.transform,
        architectures,
        report=lambda share: report("compiling kernels", _KERNELS_SHARE * share),
    )
    plans, memory = _build_engines(steps, profiles, source.model, request.settings, report)
    precision = msgspec.json.format(msgspec.json.encode(proof.records()), indent=1)
    parts = {PRECISION_PART: precision, **plans, **codes}

    def manifest_of(listed: Mapping[str, Part]) -> EngineManifest:
        return EngineManifest(
            schema_version=ENGINE_SCHEMA_VERSION,
            source=source.manifest,
            source_onnx_sha256=source.sha256,
            target=request.target,
            target_version=str(trt.__version__),
            cuda_major=compiler_version()[0],
            precision=proof.precision,
            profiles=profiles,
            compute_capabilities=capabilities,
            architectures=(*architectures, OLDEST_PTX),
            tensors=steps.tensors,
            steps=steps.steps,
            parts=dict(listed),
            memory=memory,
            versions={
                "frcnn": __version__,
                "onnx": onnx.__version__,
                request.target: str(trt.__version__),
                "nvrtc": ".".join(map(str, compiler_version())),
            },
        )

    report("writing", 1.0)
    listed = write_archive(path, lambda found: manifest_of(found).to_json(), parts.items())
    return Built(manifest=manifest_of(listed), proof=proof)


def prepare(request: Request) -> tuple[ModuleType, tuple[str, ...], tuple[str, ...]]:
    """Check what a build needs on this system, before any step that takes long.

    Returns the TensorRT module, the compute capabilities of the engines and the architectures of the kernels, or raises
    MissingDependencyError or UsageError.
    """
    capabilities = request.settings.compute_capabilities
    if request.target == "tensorrt":
        capabilities = (require_gpu(capabilities),)
    trt = import_builder(request.target)
    if request.target == "tensorrt-rtx":
        check_compute_capabilities(trt, capabilities)
    wanted = request.architectures
    if wanted is None and capabilities:
        wanted = tuple(map(architecture_of, capabilities))
    return trt, capabilities, check_architectures(wanted)


def _steps(trt: ModuleType, model: onnx.ModelProto, target: Target, capabilities: Sequence[str]) -> Steps:
    if target == "tensorrt-rtx" or load_tensorrt_plugins() is None:
        return steps_between_operators(trt, model)
    (capability,) = capabilities
    register(architecture=architecture_of(capability))
    return one_engine(trt, model)


def _prove(steps: Steps, precision: Precision) -> Proof:
    layers: list[Layer] = []
    for index, step in enumerate(steps.steps):
        if isinstance(step, EngineStep):
            layers.extend(read_layers(steps.networks[step.part], index))
        else:
            layers.append(operator_layer(step, index, steps.tensors))
    return prove(layers, precision)


def _build_engines(
    steps: Steps, profiles: Sequence[Profile], model: onnx.ModelProto, settings: BuildSettings, report: Progress
) -> tuple[dict[str, bytes], MemoryNeeds]:
    """Build every engine and return the plans by part, and the device memory that they need."""
    found = [shapes_of_profile(steps, profile) for profile in profiles]
    work = {part: network.definition.num_layers for part, network in steps.networks.items()}
    plans: dict[str, bytes] = {}
    done = 0
    for index, (part, network) in enumerate(steps.networks.items()):
        what = f"building engine {index + 1} of {len(work)}"

        def report_part(share: float, what: str = what, done: int = done, own: int = work[part]) -> None:
            report(what, _KERNELS_SHARE + (1 - _KERNELS_SHARE) * (done + own * share) / sum(work.values()))

        report_part(0.0)
        plans[part] = build_serialized(network, [shapes[part] for shapes, _ in found], settings, report=report_part)
        done += work[part]
    reported = [network.messages.weights_bytes for network in steps.networks.values()]
    weights = [size for size in reported if size is not None]
    if len(weights) < len(reported):
        weights = [initializer_bytes(model)]
    return plans, memory_needs([maximum for _, maximum in found], steps.tensors, weights)


def _source_of_file(path: Path, precision: Precision | None, labels: Sequence[str] | None) -> SourceModel:
    if not is_onnx(path):
        raise UsageError(
            f"{path}: expected a model.onnx or a FasterRCNN, got another file",
            hint="for a checkpoint: model, spec = load_checkpoint(path), then build_engine(model, ...); or frcnn build",
        )
    if labels is not None:
        raise UsageError("labels: a model.onnx has its class names already", hint="leave them out, or export it again")
    source = read_source_model(path)
    require_precision(source, precision, path)
    return source


def _source_of_live_model(
    model: torch.nn.Module, request: Request, precision: Precision, labels: Sequence[str] | None
) -> SourceModel:
    from frcnn.exporter import export_onnx

    with temporary_folder() as folder:
        exported = folder / "model.onnx"
        export_onnx(model, exported, labels=labels, size=static_canvases(request.size), precision=precision)
        return read_source_model(exported)
