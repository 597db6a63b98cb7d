"""Shapes and types of the values of an ONNX network, as ONNX infers them.

ONNX's inference does not follow all arithmetic on sizes. Here nodes that depend on known sizes and constants only, like
the windows of a Swin Transformer, are computed by ONNX's reference implementation, until every output is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.reference
from numpy.typing import NDArray

from frcnn.errors import ExportError, one_line
from frcnn.exporter.graph.nodes import is_standard
from frcnn.spec.engine import ONNX_ELEMENTS, TensorElement

Shape = tuple[int, ...]

_MAX_KEPT: Final = 1000  # elements of a constant whose values inference may need: sizes, axes, pads, scales


def element_of(value: onnx.ValueInfoProto) -> TensorElement:
    """Return the element type of an input or output of a network; raise ExportError for one that no step takes."""
    number = value.type.tensor_type.elem_type
    if number not in ONNX_ELEMENTS:
        kind = onnx.TensorProto.DataType.Name(number)
        raise ExportError(f"{value.name}: expected elements of {', '.join(ONNX_ELEMENTS.values())}, got {kind}")
    return ONNX_ELEMENTS[number]


def elements_of(model: onnx.ModelProto) -> dict[str, TensorElement]:
    """Return the element type of every value of a model that has one of those that steps take."""
    graph = _infer(_bare(model, {}))
    values = (*graph.input, *graph.value_info, *graph.output)
    numbers = {value.name: value.type.tensor_type.elem_type for value in values}
    numbers |= {constant.name: constant.data_type for constant in graph.initializer}
    return {name: ONNX_ELEMENTS[number] for name, number in numbers.items() if number in ONNX_ELEMENTS}


def output_shapes(model: onnx.ModelProto, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes of a model's outputs for shapes of its inputs.

    Raises ExportError if the model does not take these shapes, or the shape of an output depends on data.
    """
    bare = _bare(model, input_shapes)
    names = [value.name for value in model.graph.output]
    while True:
        shapes = _shapes(_infer(bare))
        if all(name in shapes for name in names):
            return {name: shapes[name] for name in names}
        if not _fold(bare, shapes):
            (unknown, *_) = (name for name in names if name not in shapes)
            given = ", ".join(f"{name} {shape}" for name, shape in input_shapes.items())
            raise ExportError(
                f"the shape of {unknown} depends on data, expected it to follow from {given}",
                hint="a custom backbone or head with shapes that depend on data has no engine",
            )


def _bare(model: onnx.ModelProto, input_shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """Return a model without weights, whose inputs have these shapes, and other values none."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    for value in model.graph.input:
        element = value.type.tensor_type.elem_type
        graph.input.append(onnx.helper.make_tensor_value_info(value.name, element, input_shapes.get(value.name)))
    for value in model.graph.output:
        graph.output.append(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    for constant in model.graph.initializer:
        if math.prod(constant.dims) <= _MAX_KEPT:
            graph.initializer.append(constant)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    return bare


def _infer(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"ONNX cannot infer the shapes in the graph: {one_line(error)}") from error


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Return the shapes that are known in full."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _fold(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Replace nodes whose results are known by constants, in place, and return whether there were any."""
    graph = model.graph
    known = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    rest = []
    for node in graph.node:
        results = _results(node, known, shapes, model.opset_import)
        if results is None:
            rest.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        known |= results
        graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in results.items())
    is_changed = len(rest) < len(graph.node)
    del graph.node[:]
    graph.node.extend(rest)
    return is_changed


def _results(
    node: onnx.NodeProto,
    known: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, Shape],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> dict[str, NDArray[Any]] | None:
    """Return what a node computes, if it depends on shapes and constants only."""
    given = {name: known[name] for name in node.input if name in known}
    if is_standard(node.domain) and node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        given = {node.input[0]: np.broadcast_to(np.zeros((), np.bool_), shapes[node.input[0]])}
    if any(name and name not in given for name in node.input) or any(a.HasField("g") for a in node.attribute):
        return None
    if any(value.dtype.kind not in "biuf" for value in given.values()):
        return None  # bfloat16, which NumPy does not have
    function = onnx.helper.make_function("frcnn", "fold", list(given), node.output, [node], opsets)
    try:
        values = onnx.reference.ReferenceEvaluator(function).run(None, given, attributes={})
    except RuntimeError:  # the reference implementation lacks the operator
        return None
    return {name: np.asarray(value) for name, value in zip(node.output, values, strict=True) if name}
