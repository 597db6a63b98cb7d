"""Operators that ONNX has in bfloat16 and TensorRT has not: they run in float32, between two casts.

PyTorch computes activations of bfloat16 tensors in float32, too, and rounds once at the end: the values are the same.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto

__all__ = ["widen_bfloat16"]

# Tried: every activation, normalisation, pooling and element-wise operator of opset 22 that TensorRT-RTX 1.7 builds in
# float16 builds in bfloat16, these excepted.
_FLOAT32_ONLY: Final = frozenset({"HardSwish", "Mish", "LpNormalization"})


def widen_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cast round the nodes that TensorRT refuses in bfloat16; in place.

    Args:
        model: as PyTorch's exporter made it, with the types of all values.
    """
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
        wide_source, wide_result = f"{result}_wide_source", f"{result}_wide"
        for name, like in ((wide_source, source), (wide_result, result)):
            value = graph.value_info.add()
            value.CopyFrom(values[like])
            value.name = name
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        node.input[0], node.output[0] = wide_source, wide_result
        before = onnx.helper.make_node("Cast", [source], [wide_source], to=TensorProto.FLOAT)
        after = onnx.helper.make_node("Cast", [wide_result], [result], to=TensorProto.BFLOAT16)
        for cast in (before, after):
            cast.metadata_props.extend(node.metadata_props)  # the module that it comes from, for its name
        nodes.extend((before, node, after))
    del graph.node[:]
    graph.node.extend(nodes)
    return model
