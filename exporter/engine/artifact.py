"""Build an engine artifact from ``model.onnx`` or a live model: steps, precision proof, kernels, engines, one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import onnx

from frcnn._version import __version__
from frcnn.errors import UsageError
from frcnn.exporter.engine.build_gpu import choose_target
from frcnn.exporter.engine.builder import BuildSettings, build_serialized
from frcnn.exporter.engine.kernels import kernel_parts
from frcnn.exporter.engine.network import Network, parse_network
from frcnn.exporter.engine.precision_proof import Layer, Proof, layers_of_model, layers_of_network, prove
from frcnn.exporter.engine.profiles import DEFAULT_BATCH, make_profiles, static_canvases
from frcnn.exporter.engine.request import Request, prepare, require_sizes, require_target
from frcnn.exporter.engine.shapes import ProfileTraces, initializer_bytes, input_shapes, memory_needs, trace_profile
from frcnn.exporter.engine.steps import Steps, make_steps, one_engine
from frcnn.exporter.graph.nodes import int8_layers
from frcnn.exporter.graph.source_model import SourceModel, in_precision, is_onnx, read_source_model
from frcnn.exporter.graph.split import split
from frcnn.files import temporary_folder, writable_folder
from frcnn.files.archive import write_archive
from frcnn.plugins.cuda.compiler import OLDEST_PTX, compiler_version
from frcnn.plugins.tensorrt import register
from frcnn.spec import Precision
from frcnn.spec.engine import (
    ENGINE_SCHEMA_VERSION,
    INPUTS,
    PRECISION_PART,
    EngineManifest,
    EngineStep,
    Form,
    Part,
    Target,
)
from frcnn.spec.supported_gpus import architecture_of

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, float], None]
"""Is called with the current task and the finished share of all work, 0 to 1, also from other threads."""

_KERNELS_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A finished build: the manifest of the artifact, and the proof of its precision."""

    manifest: EngineManifest
    proof: Proof


def build_engine(
    model: str | os.PathLike[str] | torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    target: Target | Literal["auto"] = "auto",
    form: Form | None = None,
    batch: int | str = DEFAULT_BATCH,
    size: str | None = None,
    precision: Precision | None = None,
    labels: Sequence[str] | None = None,
    architectures: Sequence[str] | None = None,
    compute_capabilities: Sequence[str] = (),
    optimization_level: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    version_compatible: bool = False,
    aux_streams: int | None = None,
    workspace_mib: int | None = None,
    progress: Progress | None = None,
) -> EngineManifest:
    """Build an engine artifact (``*.frcnn``) that :class:`frcnn.runtime.Detector` runs on an NVIDIA GPU.

    Only the target ``"tensorrt"`` needs a GPU. The file is written completely or not at all.

    Args:
        model: path of a ``model.onnx`` written by :func:`~frcnn.exporter.export_onnx`, or a ``FasterRCNN`` in eval
            mode.
        path: file to write.
        target: ``"tensorrt-rtx"``; ``"tensorrt"``, which builds on the GPU that the engine is for; ``"onnxruntime"``,
            whose networks run in ONNX Runtime's CUDA provider; or ``"auto"``, the best of them for the
            ``compute_capabilities`` or, without any, for the GPU that is here.
        form: for ``"tensorrt"``, ``"plan"``: one plan with the operators as plugins, or ``"split"``: two engines with
            the operators between them. Default: a plan where TensorRT has ahead-of-time plugins, from 10.13 on, unless
            ``version_compatible``.
        batch: images in a batch, either a number or min, opt and max like ``"1:1:8"``.
        size: canvases, height x width in pixels, like ``"800x1344,1344x800"``, or ranges of them, min, opt and max,
            like ``"320x320:800x1088:1344x1344"``. Default: the canvases of the file, or every size that the model's
            resizing produces.
        precision: of the convolutions and matrix products, ``"fp32"``, ``"fp16"`` or ``"bf16"``; must be that of the
            ``model.onnx``. Of an int8 one, of the layers that are not int8: ``"fp32"``, the default, or ``"fp16"``.
            Default: that of the ``model.onnx``, or ``"fp32"`` for a live model.
        labels: class names, for a live model only.
        architectures: ``sm_NN`` names to compile the CUDA kernels for, in addition to PTX. Default: those of
            ``compute_capabilities``.
        compute_capabilities: of the GPUs that the engines are for, like ``"8.9"``. Default: the target's default.
        optimization_level: TensorRT's builder optimization level, 0 to 5, for ``"tensorrt"`` only.
        timing_cache: file for TensorRT's timing cache, read and updated, for ``"tensorrt"`` only. Default: no file.
        version_compatible: for ``"tensorrt"`` in the form ``"split"``: engines that the lean runtime of the same
            TensorRT runs, too.
        aux_streams: most streams that an engine may use beside the caller's, for ``"tensorrt"`` only. Default:
            TensorRT's choice.
        workspace_mib: most device memory that a layer may use as scratch, in MiB, for ``"tensorrt"`` only. Default: all
            of the GPU's.
        progress: is called with the current task and the finished share of all work, 0 to 1.

    Returns:
        The manifest of the artifact.

    Raises:
        ArtifactError: the file is not a ``model.onnx`` written by frcnn.
        ExportError: TensorRT fails, or a layer has another type than ``precision`` requires.
        KernelError: there is no kernel for an operator of the model, or for its shapes.
        MissingDependencyError: TensorRT, the CUDA compiler or, for a live model, torch is not installed.
        OutputError: the artifact cannot be written.
        UnsupportedModelError: a part of the live model cannot be exported.
        UsageError: an option is not valid, or not supported by the model.
    """
    if target == "auto":
        target, _ = choose_target(compute_capabilities)
    request = Request(
        target=target,
        form=form,
        batch=str(batch),
        size=size,
        architectures=None if architectures is None else tuple(architectures),
        settings=BuildSettings(
            compute_capabilities=tuple(compute_capabilities),
            optimization_level=optimization_level,
            timing_cache=None if timing_cache is None else Path(timing_cache),
            version_compatible=version_compatible,
            aux_streams=aux_streams,
            workspace_mib=workspace_mib,
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
    require_target(source.manifest, request.target)
    require_sizes(source.manifest.model)
    writable_folder(Path(path).parent)
    report: Progress = progress or (lambda _what, _share: None)
    profiles = make_profiles(source.manifest, batch=request.batch, size=request.size)
    prepared = prepare(request)
    report("reading the graph", 0.0)
    steps = make_steps(split(source.model), request.target)
    traces = [trace_profile(steps, profile) for profile in profiles]
    if prepared.form == "plan":
        register(architecture=architecture_of(prepared.compute_capabilities[0]))
        steps = one_engine(steps, source.model)
    networks = _parse(prepared.trt, steps)
    proof = _prove(steps, networks, source)
    codes = kernel_parts(
        steps,
        source.manifest.model.transform,
        prepared.architectures,
        report=lambda share: report("compiling kernels", _KERNELS_SHARE * share),
    )
    engines = _build_engines(steps, networks, traces, request.settings, report)
    weights = [
        (networks[part].messages.weights_bytes if part in networks else None) or initializer_bytes(model)
        for part, model in steps.models.items()
    ]
    precision = msgspec.json.format(msgspec.json.encode(proof.records()), indent=1)
    parts = {PRECISION_PART: precision, **engines, **codes}

    def manifest_of(listed: Mapping[str, Part]) -> EngineManifest:
        return EngineManifest(
            schema_version=ENGINE_SCHEMA_VERSION,
            source=source.manifest,
            source_onnx_sha256=source.sha256,
            target=request.target,
            target_version=prepared.version,
            version_compatible=request.settings.version_compatible,
            cuda_major=compiler_version()[0],
            precision=proof.precision,
            profiles=profiles,
            compute_capabilities=prepared.compute_capabilities,
            architectures=(*prepared.architectures, OLDEST_PTX),
            tensors=steps.tensors,
            steps=steps.steps,
            parts=dict(listed),
            memory=memory_needs(steps, traces, weights),
            versions={
                "frcnn": __version__,
                "onnx": onnx.__version__,
                "nvrtc": ".".join(map(str, compiler_version())),
                **({} if prepared.trt is None else {request.target: prepared.version}),
            },
        )

    report("writing", 1.0)
    listed = write_archive(path, lambda found: manifest_of(found).to_json(), parts.items())
    return Built(manifest=manifest_of(listed), proof=proof)


def _parse(trt: ModuleType | None, steps: Steps) -> dict[str, Network]:
    """Return the definition of every engine's network; ONNX Runtime has none."""
    if trt is None:
        return {}
    return {part: parse_network(trt, model, steps.tensors, name=part) for part, model in steps.models.items()}


def _prove(steps: Steps, networks: Mapping[str, Network], source: SourceModel) -> Proof:
    layers: list[Layer] = []
    for index, step in enumerate(steps.steps):
        if isinstance(step, EngineStep) and step.part in networks:
            layers.extend(layers_of_network(networks[step.part], index))
        elif isinstance(step, EngineStep):
            layers.extend(layers_of_model(steps.models[step.part], index))
    rest = steps.tensors[INPUTS[0]].element
    return prove(layers, source.manifest.precision, int8=int8_layers(source.model.graph), rest=rest)


def _build_engines(
    steps: Steps,
    networks: Mapping[str, Network],
    traces: Sequence[ProfileTraces],
    settings: BuildSettings,
    report: Progress,
) -> dict[str, bytes]:
    """Build every engine; those of ONNX Runtime are their models."""
    if not networks:
        return {part: model.SerializeToString() for part, model in steps.models.items()}
    work = {part: network.definition.num_layers for part, network in networks.items()}
    plans: dict[str, bytes] = {}
    done = 0
    for index, step in enumerate(step for step in steps.steps if isinstance(step, EngineStep)):
        what, own = f"building engine {index + 1} of {len(work)}", work[step.part]

        def report_part(share: float, what: str = what, done: int = done, own: int = own) -> None:
            report(what, _KERNELS_SHARE + (1 - _KERNELS_SHARE) * (done + own * share) / sum(work.values()))

        report_part(0.0)
        shapes = [input_shapes(steps, step, found) for found in traces]
        plans[step.part] = build_serialized(networks[step.part], shapes, settings, report=report_part)
        done += own
    return plans


def _source_of_file(path: Path, precision: Precision | None, labels: Sequence[str] | None) -> SourceModel:
    if not is_onnx(path):
        raise UsageError(
            f"{path}: expected a model.onnx or a FasterRCNN, got another file",
            hint="for a checkpoint: model, spec = load_checkpoint(path), then build_engine(model, ...); or frcnn build",
        )
    if labels is not None:
        raise UsageError("labels: a model.onnx has its class names already", hint="leave them out, or export it again")
    return in_precision(read_source_model(path), precision, path)


def _source_of_live_model(
    model: torch.nn.Module, request: Request, precision: Precision, labels: Sequence[str] | None
) -> SourceModel:
    from frcnn.exporter import export_onnx

    with temporary_folder() as folder:
        exported = folder / "model.onnx"
        export_onnx(model, exported, labels=labels, size=static_canvases(request.size), precision=precision)
        return read_source_model(exported)
