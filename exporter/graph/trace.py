"""Trace the two networks of a detector with PyTorch's exporter."""

from __future__ import annotations

import gc
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import onnx
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental import _config

from frcnn.errors import ExportError, FrcnnError, MissingDependencyError
from frcnn.exporter.graph.half_precision import add_bfloat16_fallback
from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.spec import ModelSpec, Precision, Size

OPSETS: Final[dict[Precision, int]] = {"fp32": 20, "fp16": 20, "bf16": 22}
"""Opset of the standard operators. More runtimes support 20 than 22; Conv supports bfloat16 from 22 on."""

_aten: Final = torch.ops.aten

_PLAIN: Final = frozenset(
    (
        *(_aten.conv2d.default, _aten.linear.default, _aten.max_pool2d.default, _aten.avg_pool2d.default),
        *(_aten.relu.default, _aten.relu6.default, _aten.leaky_relu.default, _aten.hardtanh.default),
        *(_aten.hardswish.default, _aten.hardsigmoid.default, _aten.sigmoid.default, _aten.silu.default),
        *(_aten.gelu.default, _aten.elu.default, _aten.mish.default, _aten.tanh.default, _aten.mean.dim),
        *(_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.cat.default),
        *(_aten.upsample_nearest2d.vec, _aten.upsample_bilinear2d.vec, _aten.sym_size.int),
    )
)
"""Operators of convolutional networks that decompositions leave as they are."""

_IN_PLACE: Final = {
    getattr(getattr(_aten, f"{operator._opname}_"), operator._overloadname): operator
    for operator in _PLAIN
    if hasattr(_aten, f"{operator._opname}_")
}

_OPERATOR: Final = re.compile(r"call_function\[target=(?:torch\.ops\.)?(?P<name>[\w.]+)\]")


def trace_networks(
    module: DeployableFasterRCNN,
    spec: ModelSpec,
    precision: Precision,
    canvases: Sequence[Size] | None,
    progress: Callable[[str], None] = lambda what: None,
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Trace the features network and the boxes network; raise ExportError where PyTorch's exporter fails.

    One canvas (height, width) is fixed in the graph; several, or None, make height and width dynamic.

    Returns:
        The features network, ``images`` to ``objectness_{i}``, ``deltas_{i}`` and ``features_{i}``, and the boxes
        network, ``pooled`` to ``class_logits`` and ``box_deltas``. Their first dimensions are dynamic.
    """
    step, opset = spec.transform.size_divisible, OPSETS[precision]
    is_static = canvases is not None and len(canvases) == 1
    height, width = canvases[0] if canvases is not None and is_static else _opt_canvas(spec)
    images = torch.zeros(2, 3, height, width, dtype=module.dtype)
    pooled = torch.zeros(2, *module.pooled_shape, dtype=module.dtype)
    counts = {"objectness": spec.rpn.num_levels, "deltas": spec.rpn.num_levels}
    counts["features"] = len(spec.roi_heads.pooler.feature_names)
    maps = [f"{name}_{level}" for name, levels in counts.items() for level in range(levels)]
    batch, rois = torch.export.Dim("batch", min=1), torch.export.Dim("rois", min=1)
    canvas_dims = {} if is_static else {2: step * torch.export.Dim("h", min=1), 3: step * torch.export.Dim("w", min=1)}
    try:
        with _quiet(), _uncollected():
            progress("tracing the backbone network")
            features = _trace(module.features, "images", images, {0: batch, **canvas_dims}, maps, opset)
            progress("tracing the box head")
            boxes = _trace(module.boxes, "pooled", pooled, {0: rois}, ("class_logits", "box_deltas"), opset)
    except FrcnnError:
        raise
    except ModuleNotFoundError as error:
        raise MissingDependencyError(str(error.name), extra="export", why="exporting to ONNX") from error
    except Exception as error:  # the exporter raises many types; --debug shows the traceback
        hint = "a custom backbone or head may use operations that depend on data; see --debug"
        if not is_static:
            hint += "; a static canvas (--size HEIGHTxWIDTH) asks less of the model"
        raise ExportError(f"PyTorch could not export {spec.architecture}: {_reason(error)}", hint=hint) from error
    if precision == "bf16":
        for network in (features, boxes):
            add_bfloat16_fallback(network)
    return features, boxes


def _reason(error: BaseException) -> str:
    """Return the first line of what the exporter's error comes from, after the operator that it could not translate."""
    texts, cause = [str(error)], error
    while cause.__cause__ is not None:
        cause = cause.__cause__
        texts.append(str(cause))
    operators = [found["name"] for text in texts if (found := _OPERATOR.search(text))]
    reason = next(iter(texts[-1].strip().splitlines()), type(cause).__name__)
    return reason if not operators or operators[-1].rpartition(".")[0] in reason else f"{operators[-1]}: {reason}"


def _trace(
    network: nn.Module, name: str, given: Tensor, dims: dict[int, Any], outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    program = torch.onnx.export(
        _capture(network, given, dims),
        (given,),
        dynamo=True,
        opset_version=opset,
        input_names=[name],
        output_names=list(outputs),
        dynamic_shapes=({**dims},),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _capture(network: nn.Module, given: Tensor, dims: dict[int, Any]) -> nn.Module | ExportedProgram:
    """Return the captured operators of a network if each has an ONNX form of its own, else the network.

    PyTorch's ONNX exporter decomposes what it captures, for which it traces the network twice more. That takes half of
    the time, and changes nothing here. The network itself it captures, too, and says what is wrong with it.
    """
    try:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # as the exporter captures
            program = torch.export.export(network, (given,), dynamic_shapes=({**dims},), strict=False)
    except Exception:
        return network
    _write_out_of_place(program.graph)
    used = {node.target for node in program.graph.nodes if node.op == "call_function"}
    if not used <= _PLAIN:
        return network
    decompose = program.run_decompositions
    program.run_decompositions = lambda table: program if used.isdisjoint(table) else decompose(table)
    return program


def _write_out_of_place(graph: fx.Graph) -> None:
    """Replace operators that overwrite a value which only they can see; and adaptive pooling to one cell by a mean."""
    owners: dict[int, fx.Node | None] = {}  # by memory: the only value that lies there
    for node in graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            continue
        memory, tensors = value.untyped_storage()._cdata, [arg for arg in node.args if isinstance(arg, fx.Node)]
        is_owned = memory not in owners and node.op == "call_function"
        if node.target in _IN_PLACE and owners.get(memory) is node.args[0]:
            if is_owned := all(arg.meta["val"].dtype == value.dtype for arg in tensors):
                node.target = _IN_PLACE[node.target]
        elif node.target is _aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]:
            node.target, node.args = _aten.mean.dim, (node.args[0], [-1, -2], True)
        owners[memory] = node if is_owned else None


def _opt_canvas(spec: ModelSpec) -> Size:
    """Return the canvas of a 4:3 image, at least two steps in each direction and not square.

    Tracing follows the branches that its example takes, and a backbone may take others for small images: Swin does not
    shift windows that hold the whole map.
    """
    step = spec.transform.size_divisible
    side = spec.transform.min_size
    height, width = spec.transform.canvas_size(*spec.transform.resized_size(3 * side, 4 * side))
    height = max(height, 2 * step)
    return height, max(width, height + step)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings of PyTorch's exporter, on which no user can act."""
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
    """Disable garbage collection: tracing creates millions of objects that live until it ends.

    The export of R50-FPN takes 13 % less time and 1 % more memory.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
