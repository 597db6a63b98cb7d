"""Deployable module -> ``model.onnx``: one file that any ONNX Runtime executes and that says what it is."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import onnx
import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn._version import __version__
from frcnn.errors import ExportError, FrcnnError, MissingDependencyError, UsageError
from frcnn.exporter.graph.bfloat16_fallback import add_bfloat16_fallback
from frcnn.exporter.graph.finalize import finalize_graph
from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.exporter.model.supported import require_supported
from frcnn.files import replacing
from frcnn.spec import PRECISIONS, SCHEMA_VERSION, Manifest, ModelSpec, Precision, Size

__all__ = ["INPUT_NAMES", "OPSETS", "OUTPUT_NAMES", "export_onnx"]

OPSETS: Final[dict[Precision, int]] = {"fp32": 20, "fp16": 20, "bf16": 22}
"""Opset of the standard operators; Conv takes bfloat16 from 22 on, and fewer runtimes know 22 than 20."""
INPUT_NAMES = ("images", "image_sizes")
OUTPUT_NAMES = ("num_detections", "boxes", "scores", "labels")


def export_onnx(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    size: Size | Sequence[Size] | None = None,
    precision: Precision = "fp32",
    architecture: str | None = None,
    source_sha256: str | None = None,
    assumptions: Sequence[str] = (),
) -> Manifest:
    """Export a torchvision Faster R-CNN to ONNX.

    The batch is dynamic always. The file is written whole or not at all.

    Args:
        model: a ``FasterRCNN`` in eval mode; it is left as it is.
        path: where to write.
        labels: ``num_classes`` names with index 0 the background, or ``num_classes - 1``.
        size: None for any canvas (a multiple of the model's ``size_divisible``), one (height, width) for a static
            canvas, or several: the graph is dynamic then, and the artifact takes just these.
        precision: of the heavy layers: ``"fp32"``, ``"fp16"`` or ``"bf16"``; decoding, softmax, scores and IoU stay
            float32. ONNX Runtime has no CPU kernels for bf16: such a file is for TensorRT and CUDA.
        architecture: a name for people; the class's name by default.
        source_sha256: SHA-256 of the checkpoint, for the manifest.
        assumptions: what was not in the weights, for the manifest.

    Returns:
        the manifest that the file carries.

    Raises:
        UnsupportedModelError: a part of the model has no deployable form.
        UsageError: labels, size or precision do not fit.
        ExportError: the exporter failed.
        OutputError: the file cannot be written.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    detector = require_supported(model)
    _require_finite(detector)
    spec = read_model_spec(detector, architecture=architecture, labels=labels)
    canvases = _canvases(size, spec.transform.size_divisible)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        model=spec,
        precision=precision,
        canvases=canvases,
        opset=OPSETS[precision],
        versions=_versions(),
        source_sha256=source_sha256,
        assumptions=tuple(assumptions),
    )
    with replacing(path) as temporary:
        proto = finalize_graph(_trace(detector, spec, precision, canvases), spec, manifest)
        onnx.save_model(proto, temporary)
    return manifest


def _trace(
    model: GeneralizedRCNN, spec: ModelSpec, precision: Precision, canvases: tuple[Size, ...] | None
) -> onnx.ModelProto:
    module = DeployableFasterRCNN(model, spec, precision)
    step = spec.transform.size_divisible
    is_static = canvases is not None and len(canvases) == 1
    height, width = canvases[0] if canvases is not None and is_static else _opt_canvas(spec)
    images = torch.zeros(2, 3, height, width, dtype=module.dtype)
    image_sizes = torch.tensor([[height, width]] * 2, dtype=torch.int32)
    batch = torch.export.Dim("batch", min=1)
    canvas_dims = {} if is_static else {2: step * torch.export.Dim("h", min=1), 3: step * torch.export.Dim("w", min=1)}
    try:
        with _quiet(), _uncollected():
            program = torch.onnx.export(
                module,
                (images, image_sizes),
                dynamo=True,
                opset_version=OPSETS[precision],
                input_names=list(INPUT_NAMES),
                output_names=list(OUTPUT_NAMES),
                dynamic_shapes={"images": {0: batch, **canvas_dims}, "image_sizes": {0: batch}},
                verbose=False,
            )
    except FrcnnError:
        raise
    except ModuleNotFoundError as error:
        raise MissingDependencyError(str(error.name), extra="export", why="exporting to ONNX") from error
    except Exception as error:  # the exporter raises many kinds; --debug shows the whole chain
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        hint = "a custom backbone or head may use operations that depend on data; see --debug"
        if not is_static:
            hint += "; a static canvas (--size HEIGHTxWIDTH) asks less of the model"
        raise ExportError(f"PyTorch could not export {spec.architecture}: {reason}", hint=hint) from error
    assert program is not None
    return add_bfloat16_fallback(program.model_proto) if precision == "bf16" else program.model_proto


def _opt_canvas(spec: ModelSpec) -> Size:
    """Return the canvas of a 4:3 image, at least two steps each way and not square.

    A backbone may take another branch for small images (Swin does not shift windows that hold the whole map), and
    tracing follows the branch of its example; so the example is what the model usually sees. It costs nothing.
    """
    step = spec.transform.size_divisible
    side = spec.transform.min_size
    height, width = spec.transform.canvas_size(*spec.transform.resized_size(3 * side, 4 * side))
    height = max(height, 2 * step)
    return height, max(width, height + step)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings, which no user can act on, from the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let Python look for no garbage: tracing makes millions of objects, nearly all of which live until it ends.

    R50-FPN's export takes 13 % less time for it, and 1 % more memory.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _canvases(size: Size | Sequence[Size] | None, step: int) -> tuple[Size, ...] | None:
    if size is None:
        return None
    items = tuple(size)
    if not items:
        raise UsageError("size: expected (height, width) or a list of them, got nothing")
    pairs = [items] if all(isinstance(item, int) for item in items) else list(items)
    canvases: list[Size] = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
            raise UsageError(f"size: expected (height, width) in pixels, got {pair!r}")
        height, width = pair
        if height % step or width % step:
            nearest = f"{-(-height // step) * step}x{-(-width // step) * step}"
            raise UsageError(
                f"size: expected multiples of {step}, got {height}x{width}", hint=f"the next canvas is {nearest}"
            )
        if (height, width) in canvases:
            raise UsageError(f"size: {height}x{width} is given twice")
        canvases.append((height, width))
    return tuple(canvases)


def _require_finite(model: GeneralizedRCNN) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ExportError(
                f"the weights hold NaN or infinity: {name}", hint="training diverged; use an earlier checkpoint"
            )


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "onnx", "onnxscript")
    try:
        return {"frcnn": __version__} | {name: importlib.metadata.version(name) for name in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(str(error.name), extra="export", why="exporting to ONNX") from error
