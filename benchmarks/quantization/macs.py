"""How much of the heavy work a layer does: its multiplications and additions (MACs) in one image."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from frcnn.exporter.engine.shape_inference import Shape, output_shapes
from frcnn.exporter.graph.quantize import HEAVY_OPERATORS
from frcnn.exporter.graph.split import split
from frcnn.spec import Size
from frcnn.spec.engine import INPUTS

__all__ = ["layer_macs"]


def layer_macs(model: onnx.ModelProto, canvas: Size) -> dict[str, int]:
    """Return the MACs of every convolution and matrix product with weights, by the name of its node.

    Args:
        model: a detector as ``frcnn export`` writes it.
        canvas: (height, width) in pixels of the one image.

    Raises:
        ExportError: the graph is not that of a detector, or its shapes depend on data.
    """
    parts = split(model)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    (pooled,) = parts.pooling.output
    proposals = shapes[parts.proposals.output[0]][1].dim_value
    box_input = (proposals, *(size.dim_value for size in shapes[pooled][1:]))
    return _macs(parts.features, {INPUTS[0]: (1, 3, *canvas)}) | _macs(parts.boxes, {pooled: box_input})


def _macs(network: onnx.ModelProto, inputs: Mapping[str, Shape]) -> dict[str, int]:
    weights = {constant.name: tuple(constant.dims) for constant in network.graph.initializer}
    layers = [node for node in network.graph.node if node.op_type in HEAVY_OPERATORS and node.input[1] in weights]
    del network.graph.output[:]  # the part is a copy; its outputs are those whose shapes are asked for
    network.graph.output.extend(
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None) for node in layers
    )
    shapes = output_shapes(network, inputs)
    return {
        node.name: math.prod(shapes[node.output[0]]) * _macs_of_an_element(node, weights[node.input[1]])
        for node in layers
    }


def _macs_of_an_element(node: onnx.NodeProto, weight: Shape) -> int:
    """Return the MACs behind one element of a layer's output."""
    if node.op_type == "Conv":  # (out channels, in channels of a group, kernel height, kernel width)
        return math.prod(weight[1:])
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight[-1] if is_transposed else weight[-2]
