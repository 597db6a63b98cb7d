"""The options of a build, and what it uses of this system, checked before anything that takes long."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, get_args

import onnx

from frcnn.errors import UsageError
from frcnn.exporter.engine.build_gpu import refuse_unserved, require_gpu
from frcnn.exporter.engine.builder import BuildSettings, check_compute_capabilities, check_features, import_builder
from frcnn.exporter.engine.kernels import check_architectures
from frcnn.exporter.engine.profiles import DEFAULT_BATCH
from frcnn.plugins.box_detections.kernel import MAX_DETECTIONS, MAX_ROIS
from frcnn.plugins.region_proposals.kernel import MAX_CANDIDATES
from frcnn.plugins.tensorrt.library import load_tensorrt_plugins
from frcnn.spec import Manifest, ModelSpec
from frcnn.spec.engine import TARGETS, Form, Target
from frcnn.spec.supported_gpus import architecture_of

_MAX_AUX_STREAMS: Final = 64
_MAX_WORKSPACE_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Options of a build, see :func:`build_engine`; ``settings`` are those of the builder."""

    target: Target = "tensorrt-rtx"
    form: Form | None = None
    batch: str = DEFAULT_BATCH
    size: str | None = None
    architectures: tuple[str, ...] | None = None
    settings: BuildSettings = field(default_factory=BuildSettings)

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"target: expected auto, {', '.join(TARGETS)}, got {self.target!r}")
        if self.form not in (None, *get_args(Form)):
            raise UsageError(f"form: expected {' or '.join(get_args(Form))}, got {self.form!r}")
        settings = self.settings
        numbers = {
            "optimization-level": (settings.optimization_level, 0, 5),
            "aux-streams": (settings.aux_streams, 0, _MAX_AUX_STREAMS),
            "workspace": (settings.workspace_mib, 1, _MAX_WORKSPACE_MIB),
        }
        for name, (number, low, high) in numbers.items():
            if number is not None and not low <= number <= high:
                raise UsageError(f"--{name}: expected {low} to {high}, got {number}")
        if self.target == "tensorrt-rtx":
            refuse_unserved(settings.compute_capabilities, self.architectures or ())
        given: dict[str, object] = {"form": self.form, "timing-cache": settings.timing_cache}
        given |= {name: number for name, (number, _low, _high) in numbers.items()}
        given["version-compatible"] = settings.version_compatible or None
        for name, value in given.items():
            if value is not None and self.target != "tensorrt":
                raise UsageError(f"--{name} goes with --target tensorrt, got {self.target}", hint="leave it out")
        if settings.version_compatible and self.form == "plan":
            raise UsageError(
                "--version-compatible goes with --form split, whose engines have no plugins, got --form plan",
                hint="leave one of the two out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a build uses of this system."""

    trt: ModuleType | None  # TensorRT; None for ONNX Runtime, whose engines are ONNX files
    compute_capabilities: tuple[str, ...]  # of the GPUs that the engines are for; none: the target's default
    architectures: tuple[str, ...]  # of the kernels
    form: Form

    @property
    def version(self) -> str:
        """The version of what makes the engines: TensorRT, or the package onnx."""
        return str((self.trt or onnx).__version__)


def prepare(request: Request) -> Prepared:
    """Check what a build needs on this system, before any step that takes long.

    Raises MissingDependencyError without TensorRT or the CUDA compiler, and UsageError without a GPU that TensorRT
    builds on, or for an option that names what this system cannot build for.
    """
    capabilities, form = request.settings.compute_capabilities, request.form
    trt: Any = None
    if request.target == "tensorrt":
        capabilities = (require_gpu(capabilities),)
        trt = import_builder(request.target)
        check_features(trt)
        if request.settings.version_compatible:
            form = "split"
        if form != "split" and load_tensorrt_plugins() is not None:
            form = "plan"
        elif form == "plan":
            raise UsageError(
                f"--form plan needs TensorRT 10.13 or newer, which has ahead-of-time plugins, got {trt.__version__}",
                hint="leave it out for --form split, or install a newer TensorRT",
            )
    elif request.target == "tensorrt-rtx":
        trt = import_builder(request.target)
        check_compute_capabilities(trt, capabilities)
    wanted = request.architectures
    if wanted is None and capabilities:
        wanted = tuple(map(architecture_of, capabilities))
    return Prepared(
        trt=trt,
        compute_capabilities=() if request.target == "onnxruntime" else capabilities,
        architectures=check_architectures(wanted, request.target),
        form=form or "split",
    )


def require_sizes(model: ModelSpec) -> None:
    """Raise UsageError, which names the setting, for a model with more proposals or detections than kernels hold."""
    rpn, detections = model.rpn, model.roi_heads.detections_per_img
    rois = min(rpn.post_nms_top_n, rpn.num_levels * rpn.pre_nms_top_n)
    for name, value, most, what in (
        ("rpn_pre_nms_top_n_test", rpn.pre_nms_top_n, MAX_CANDIDATES, "candidates of a level"),
        ("rpn_post_nms_top_n_test", rois, MAX_ROIS, "proposals of an image"),
        ("box_detections_per_img", detections, MAX_DETECTIONS, "detections of an image"),
    ):
        if value > most:
            raise UsageError(
                f"{name}: kernels for a GPU hold at most {most} {what}, got {value}",
                hint=f"build from the checkpoint with --arg {name}={most}, or set it in the model; on a processor "
                "ONNX Runtime takes any number",
            )


def require_target(manifest: Manifest, target: Target) -> None:
    """Raise UsageError if a target has no engines for an int8 model, or none for its zero points."""
    if manifest.quantization is None:
        return
    if target == "onnxruntime":
        raise UsageError(
            "--target onnxruntime has no int8 kernels for a GPU, got an int8 model",
            hint="build for tensorrt-rtx or tensorrt, or build from the float model",
        )
    if not manifest.quantization.symmetric:
        raise UsageError(
            f"--target {target} takes int8 activations with zero point 0, got a model quantised for processors",
            hint="quantise it for TensorRT: frcnn quantize model.onnx --for tensorrt --images folder/",
        )
