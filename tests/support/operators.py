"""Models of one custom operator, run by ONNX Runtime from its function body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from torchvision.ops.poolers import LevelMapper, initLevelMapper

from frcnn.plugins import DOMAIN, VERSION, OperatorSpec
from frcnn.plugins.operator import Tensor as SpecTensor
from frcnn.plugins.roi_pooling.level_boundaries import level_thresholds
from support.exports import bare_session

STRIDES = (4, 8, 16, 32, 64)


def operator_model(
    spec: OperatorSpec,
    function: onnx.FunctionProto,
    *,
    levels: int = 1,
    features: int = onnx.TensorProto.FLOAT,
    attributes: dict[str, Any],
) -> onnx.ModelProto:
    """Return a checked model of one node, shapes left open."""
    kinds = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32, "features": features}
    formal = [tensor for tensor in spec.inputs for _ in range(levels if tensor.variadic else 1)]

    def info(name: str, tensor: SpecTensor) -> onnx.ValueInfoProto:
        shape = [f"{name}_{i}" for i in range(len(tensor.shape))]
        return onnx.helper.make_tensor_value_info(name, kinds[tensor.element], shape)

    names, outputs = spec.input_names(levels), [tensor.name for tensor in spec.outputs]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(spec.name, names, outputs, domain=DOMAIN, **attributes)],
        "one_operator",
        [info(name, tensor) for name, tensor in zip(names, formal, strict=True)],
        [info(tensor.name, tensor) for tensor in spec.outputs],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    model = onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def operator_session(*args: Any, **kwargs: Any) -> Any:
    return bare_session(operator_model(*args, **kwargs).SerializeToString())


def run_operator(session: Any, *inputs: Tensor) -> Tensor:
    """Return the output of an operator that has one."""
    (output,) = run_outputs(session, *inputs)
    return output


def run_outputs(session: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return all outputs, in the order of the spec."""
    feeds = {value.name: _ort_value(tensor) for value, tensor in zip(session.get_inputs(), inputs, strict=True)}
    outputs = session.run_with_ort_values([value.name for value in session.get_outputs()], feeds)
    return tuple(torch.from_numpy(output.numpy()) for output in outputs)


def _ort_value(tensor: Tensor) -> Any:
    make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
    if tensor.dtype is torch.bfloat16:  # NumPy has no such type
        return make(tensor.contiguous().view(torch.int16).numpy(), onnx.TensorProto.BFLOAT16)
    array = np.ascontiguousarray(tensor.numpy())
    return make(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def level_rule(mapper: LevelMapper) -> Callable[[float], int]:
    """Return torchvision's ``LevelMapper`` as a function of the RoI's side: its ``__call__`` after ``sqrt(area)``."""

    def level_of_side(side: float) -> int:
        s = torch.tensor(side, dtype=torch.float32)
        level = torch.floor(mapper.lvl0 + torch.log2(s / mapper.s0) + torch.tensor(mapper.eps, dtype=s.dtype))
        return int(torch.clamp(level, min=mapper.k_min, max=mapper.k_max).long()) - mapper.k_min

    return level_of_side


def thresholds_of(levels: int, *, canonical_scale: int = 224, canonical_level: int = 4) -> tuple[float, ...]:
    """Return where the levels of a pyramid of ``STRIDES`` begin."""
    mapper = initLevelMapper(2, 1 + levels, canonical_scale, canonical_level)
    return level_thresholds(level_rule(mapper), coarsest_level=levels - 1)


def pooling_attributes(
    levels: int, grid: tuple[int, int] = (7, 7), strides: Sequence[int] = STRIDES, **rest: Any
) -> dict[str, Any]:
    """Return the attributes of RoI pooling over the first levels of a pyramid."""
    return {
        "output_height": grid[0],
        "output_width": grid[1],
        "spatial_scales": [1 / stride for stride in strides[:levels]],
        "level_thresholds": list(thresholds_of(levels)),
        **rest,
    }


def is_present(rois: Tensor) -> Tensor:
    """Return (...) bool for RoIs (..., 4) by the rule of the specs, written in another way."""
    x1, y1, x2, y2 = rois.unbind(-1)
    return (x2 >= x1) & (y2 >= y1) & (((x2 - x1) * (y2 - y1)) < float("inf"))


def make_rois(images: int, per_image: int, thresholds: Sequence[float], *, seed: int, canvas: int = 256) -> Tensor:
    """Return (N, R, 4) RoIs of all kinds, mixed by a seed.

    On the canvas; across its border; outside it; without area; under a pixel; on whole and half cells; with a side
    exactly where a level begins, or one bit to either side; absent in six ways.
    """
    rng = np.random.default_rng(seed)
    shape = (images * per_image, 1)
    start = rng.uniform(0, canvas, (images * per_image, 2)).astype(np.float32)
    size = np.exp(rng.uniform(0, np.log(2 * canvas), (images * per_image, 2))).astype(np.float32)
    rois = np.concatenate([start, start + size], axis=1)
    edges = np.array([t for t in thresholds if t < 1e6] or [64.0], np.float32)
    edge = rng.choice(edges, shape)
    beside = np.nextafter(edge, rng.choice(np.array([0, 1e9], np.float32), shape))
    kinds = [
        rois,
        rois - np.float32(canvas / 2),
        rois + np.float32(canvas + 40),
        np.concatenate([start, start], axis=1),
        np.concatenate([start, start + rng.uniform(0, 1, shape).astype(np.float32)], axis=1),
        np.round(rois / 2) * 2,
        np.concatenate([0 * edge, 0 * edge, edge, edge], axis=1),
        np.concatenate([0 * edge, 0 * edge, beside, beside], axis=1),
        np.concatenate([start, start - np.array([1, 0])], axis=1),
        np.broadcast_to(np.array([0, 0, -1, -1], np.float32), rois.shape),
        np.concatenate([start, start + np.array([-3, 9])], axis=1),
        np.concatenate([start, start + np.array([9, -3])], axis=1),
        np.full_like(rois, np.nan),
        np.concatenate([start, np.full_like(start, np.inf)], axis=1),
        np.concatenate([np.full_like(start, -3e38), np.full_like(start, 3e38)], axis=1),
    ]
    chosen = rng.integers(0, len(kinds), len(rois))
    mixed = np.stack(kinds)[chosen, np.arange(len(rois))] if len(rois) else rois
    return torch.from_numpy(np.ascontiguousarray(mixed.reshape(images, per_image, 4), np.float32))
