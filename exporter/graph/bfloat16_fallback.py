"""Run operators that TensorRT does not support in bfloat16 in float32, between two casts.

PyTorch too computes activations of bfloat16 tensors in float32 and rounds once at the end, so the values are the same.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto

__all__ = ["add_bfloat16_fallback"]

# TensorRT-RTX 1.7 builds every other activation, normalisation, pooling and elementwise operator of opset 22 in
# bfloat16 that it builds in float16.
_FLOAT32_ONLY: Final = frozenset({"HardSwish", "Mish", "LpNormalization"})


def add_bfloat16_fallback(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add casts around the bfloat16 nodes that TensorRT does not support, in place; the values' types must be known."""
    graph = model.graph
    values = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        given = values.get(node.input[0]) if node.input else None
        is_bfloat16 = given is not None and given.type.tensor_type.elem_type == TensorProto.BFLOAT16
        if node.op_type not in _FLOAT32_ONLY or node.domain or not is_bfloat16:
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{result}_float32_input", f"{result}_float32"
        for name, like in ((node.input[0], source), (node.output[0], result)):
            value = graph.value_info.add()
            value.CopyFrom(values[like])
            value.name = name
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        before = onnx.helper.make_node("Cast", [source], [node.input[0]], to=TensorProto.FLOAT)
        after = onnx.helper.make_node("Cast", [node.output[0]], [result], to=TensorProto.BFLOAT16)
        for cast in (before, after):
            cast.metadata_props.extend(node.metadata_props)  # finalize names nodes after their modules by these
        nodes.extend((before, node, after))
    del graph.node[:]
    graph.node.extend(nodes)
    return model
