"""Half precision where it takes more than exporting in it: operators without bfloat16, and int8 models with float16.

TensorRT does not support some operators in bfloat16: they run in float32, between two casts. PyTorch too computes
activations of bfloat16 tensors in float32 and rounds once at the end, so the values are the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from frcnn.errors import ExportError
from frcnn.plugins import DOMAIN, OPERATORS

# TensorRT-RTX 1.7 builds every other activation, normalisation, pooling and elementwise operator of opset 22 in
# bfloat16 that it builds in float16.
_FLOAT32_ONLY: Final = frozenset({"HardSwish", "Mish", "LpNormalization"})

_SIZES: Final = {"Resize": slice(1, 3)}
"""Inputs that are float32 whatever the type of the rest: the region and the scales of Resize."""


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


def float16_rest(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an int8 model whose float32 layers and values are float16; operators keep what they take in float32.

    Scales are rounded to float16, too: by 0.4 % at most in the demo. ``model`` is not changed. Raises ExportError for a
    weight that is too large for float16.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    kept = {value.name for value in graph.output}
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            made = zip(node.output, OPERATORS[node.op_type].outputs, strict=False)
            kept.update(name for name, tensor in made if tensor.element != "features")
        else:
            kept.update(node.input[_SIZES.get(node.op_type, slice(0))])
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _halve(tensor)
    for value in (*graph.input, *graph.value_info):
        if value.name not in kept and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _halve(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    return half


def _halve(tensor: onnx.TensorProto) -> None:
    """Round a float32 tensor to float16, in place."""
    if tensor.data_type != TensorProto.FLOAT:
        return
    with np.errstate(over="ignore"):
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
    if not np.isfinite(values).all():
        raise ExportError(f"{tensor.name} is too large for float16", hint="build it with --precision fp32")
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
