"""Export a deployable module to ``model.onnx``: one file with its manifest that any ONNX Runtime executes."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn._version import __version__
from frcnn.errors import ExportError, MissingDependencyError, UsageError
from frcnn.exporter.graph.finalize import finalize_graph
from frcnn.exporter.graph.inline import inline_operators
from frcnn.exporter.graph.join import join_networks
from frcnn.exporter.graph.trace import OPSETS, trace_networks
from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.exporter.model.supported import require_supported
from frcnn.files import replacing
from frcnn.spec import PRECISIONS, SCHEMA_VERSION, CheckpointOptions, Manifest, Precision, Size


def export_onnx(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    size: Size | Sequence[Size] | None = None,
    precision: Precision = "fp32",
    inline: bool = False,
    architecture: str | None = None,
    source_sha256: str | None = None,
    assumptions: Sequence[str] = (),
    checkpoint_options: CheckpointOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Export a torchvision Faster R-CNN to ONNX.

    The inputs of the graph are ``images`` (N, 3, H, W), normalised RGB of the type of ``precision``, padded with 0 on
    the right and below, and ``image_sizes`` (N, 2) int32, (height, width) of each image on the canvas. The outputs are
    ``num_detections`` (N) int32, ``boxes`` (N, K, 4) float32 as (x1, y1, x2, y2) in canvas pixels, ``scores`` (N, K)
    float32, in descending order, and ``labels`` (N, K) int32, where K is the model's ``detections_per_img`` and rows
    from ``num_detections`` on are 0. N is dynamic. The file is written completely or not at all.

    The operators are those of torchvision's Faster R-CNN (Ren et al., arXiv:1506.01497), with a fixed number of padded
    proposals and detections. Custom operators have ONNX function bodies, so that every runtime that
    reads functions can execute the file; with ``inline`` the others can, too.

    Args:
        model: a ``FasterRCNN`` in eval mode; is not changed.
        path: file to write.
        labels: class names, either ``num_classes`` with the background at index 0, or ``num_classes - 1`` without it.
        size: one (height, width) in pixels for a static canvas, or several that the file is limited to; multiples of
            the model's ``size_divisible``. Default: H and W are dynamic.
        precision: of backbone, FPN and heads, ``"fp32"``, ``"fp16"`` or ``"bf16"``. Decoding, softmax, scores and IoU
            are always float32. ONNX Runtime has no CPU kernels for bf16.
        inline: write the bodies of the custom operators in their place. No engine can be built from such a file.
        architecture: name for the manifest. Default: the name of the model's class.
        source_sha256: SHA-256 of the checkpoint, hexadecimal, for the manifest.
        assumptions: settings that the weights do not hold, for the manifest.
        checkpoint_options: how the checkpoint was read, for the manifest.
        progress: is called with each step as it begins, such as ``"tracing the box head"``.

    Returns:
        The manifest of the file.

    Raises:
        UnsupportedModelError: a part of the model cannot be exported.
        UsageError: labels, size or precision are not valid for the model.
        ExportError: PyTorch's exporter fails, or the weights hold NaN or infinity.
        MissingDependencyError: a package that the export needs is not installed.
        OutputError: the file cannot be written.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    step = progress or (lambda what: None)
    detector = require_supported(model)
    step("checking the weights")
    with _one_thread():
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
        checkpoint_options=checkpoint_options,
    )
    with replacing(path) as temporary, _one_thread():
        module = DeployableFasterRCNN(detector, spec, precision)
        networks = trace_networks(module, spec, precision, canvases, step)
        step("joining the networks")
        joined = join_networks(*networks, module.stages)
        if inline:
            joined = inline_operators(joined)
        step("checking the graph")
        finished = finalize_graph(joined, manifest)
        step(f"writing {Path(path).name}")
        onnx.save_model(finished, temporary)
    return manifest


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread: on busy cores its threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "onnx", "onnxscript")
    try:
        return {"frcnn": __version__} | {name: importlib.metadata.version(name) for name in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(str(error.name), extra="export", why="exporting to ONNX") from error
