"""Declare the joints of the networks channels-last: pooled features as a box head reads them, feature maps as outputs.

A network is planar, (N, C, H, W), and RoI pooling is faster from and to (N, H, W, C). An engine that keeps every tensor
in the order in which its network declares it, such as ONNX Runtime, gets networks that declare that order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import all_nodes, quantized_values, read_values, unique_name

_PLANAR_TO_LAST = (0, 2, 3, 1)


def channels_last_head(boxes: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a box head whose input is declared (M, h, w, C); None if it does not begin with fully connected layers.

    A head that only flattens its input (M, C, h, w) and multiplies it with matrices of its own computes the same from
    (M, h, w, C) with the matrices in that order, so no transpose is added; only the order of the sums differs. Both may
    be int8: an input has one scale, and a matrix one for a column of results, which stay in order. ``boxes`` is not
    changed.
    """
    graph = boxes.graph
    (pooled,) = graph.input
    sizes = [dim.dim_value for dim in pooled.type.tensor_type.shape.dim]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    flat = _flattened(graph, sizes, constants) if len(sizes) == 4 and all(sizes[1:]) else None
    if flat is None:
        return None
    readers = Counter(name for node in graph.node for name in read_values(node))
    if readers[flat] == 1:
        flat = _after_rounding(graph, flat, constants)
    stored = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if flat in read_values(node)]
    if not products or flat in (value.name for value in graph.output):
        return None
    weights: dict[str, onnx.TensorProto] = {}
    for node in products:
        is_product = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _integer(node, "transA", 0))
        if not is_product or node.input[0] != flat or {*node.input[2:]} & {*node.input[:2]}:
            return None
        dequantized = stored.get(node.input[1])
        if dequantized is not None and not _has_scales_of_results(dequantized, node, constants):
            return None
        name = node.input[1] if dequantized is None else dequantized.input[0]
        matrix = constants.get(name)
        if matrix is None or len(matrix.dims) != 2 or readers[name] != 1 or readers[node.input[1]] != 1:
            return None
        weights[name] = _permuted(matrix, sizes[1:], node)

    changed = onnx.ModelProto()
    changed.CopyFrom(boxes)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(weights[tensor.name])
    _permute_dims(changed.graph.input[0])
    return changed


def channels_last_maps(features: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a network whose outputs ``names`` are transposed to (N, H, W, C), under the same names.

    ``features`` is not changed. Raises ExportError for a name that is not an output of four dimensions.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in features.graph.output}
    for name in names:
        if ranks.get(name) != 4:
            outputs = ", ".join(f"{output} of {rank}" for output, rank in ranks.items())
            raise ExportError(f"expected an output of 4 dimensions, got {name!r}; outputs are {outputs}")
    changed = onnx.ModelProto()
    changed.CopyFrom(features)
    graph = changed.graph
    taken = {value for node in all_nodes(graph.node) for value in (*node.input, *node.output)}
    planar = {name: unique_name(f"{name}_planar", taken) for name in names}
    for node in all_nodes(graph.node):
        for values in (node.input, node.output):
            values[:] = [planar.get(value, value) for value in values]
    for output in graph.output:
        if output.name in planar:
            inner = planar[output.name]
            graph.value_info.add().CopyFrom(output)
            graph.value_info[-1].name = inner
            _permute_dims(output)
            node = onnx.helper.make_node("Transpose", [inner], [output.name], perm=_PLANAR_TO_LAST)
            node.name = f"{output.name}/Transpose"
            graph.node.append(node)
    return changed


def _flattened(graph: onnx.GraphProto, sizes: Sequence[int], constants: Mapping[str, onnx.TensorProto]) -> str | None:
    """Return the input of ``sizes`` as (M, C*h*w), if the only node that reads it makes that."""
    (pooled,) = graph.input
    readers = [node for node in graph.node if pooled.name in read_values(node)]
    if len(readers) != 1:
        return None
    (node,) = readers
    if node.op_type == "Flatten" and _integer(node, "axis", 1) == 1:
        return str(node.output[0])
    if node.op_type != "Reshape" or node.input[1] not in constants:
        return None
    shape = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
    rows = {-1, sizes[0] or -1} if _integer(node, "allowzero", 0) else {-1, 0, sizes[0]}
    is_flat = len(shape) == 2 and shape[0] in rows and shape[1] in (-1, math.prod(sizes[1:]))
    return str(node.output[0]) if is_flat else None


def _after_rounding(graph: onnx.GraphProto, value: str, constants: Mapping[str, onnx.TensorProto]) -> str:
    """Return the result of rounding a value to int8 and back by one scale, if its reader does that; else the value."""
    makers = {node.output[0]: node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for result, rounded in quantized_values(graph).items():
        pair = makers[result], makers[makers[result].input[0]]
        if rounded == value and all(node.input[1] in constants and not constants[node.input[1]].dims for node in pair):
            return result
    return value


def _has_scales_of_results(
    dequantize: onnx.NodeProto, product: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> bool:
    """Return whether a matrix has one scale, or one for each of its product's results."""
    scale = constants.get(dequantize.input[1])
    if scale is None or _integer(dequantize, "block_size", 0):
        return False
    axis_of_results = 0 if _integer(product, "transB", 0) else 1
    return math.prod(scale.dims) == 1 or _integer(dequantize, "axis", 1) % 2 == axis_of_results


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _permuted(matrix: onnx.TensorProto, sizes: Sequence[int], node: onnx.NodeProto) -> onnx.TensorProto:
    """Return the matrix of a product with its (C, h, w) in the order (h, w, C)."""
    values = onnx.numpy_helper.to_array(matrix)
    if _integer(node, "transB", 0):
        ordered = values.reshape(-1, *sizes).transpose(_PLANAR_TO_LAST)
    else:
        ordered = values.reshape(*sizes, -1).transpose(1, 2, 0, 3)
    return onnx.numpy_helper.from_array(ordered.reshape(values.shape), matrix.name)


def _permute_dims(value: onnx.ValueInfoProto) -> None:
    """Declare (N, C, H, W) as (N, H, W, C)."""
    shape = value.type.tensor_type.shape
    dims = [onnx.TensorShapeProto.Dimension.FromString(shape.dim[i].SerializeToString()) for i in _PLANAR_TO_LAST]
    del shape.dim[:]
    shape.dim.extend(dims)
