"""Operators that TensorRT does not support in bfloat16."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support.rtx_network import parse_by_rtx

from frcnn.exporter.graph.bfloat16_fallback import add_bfloat16_fallback

GRAPH = """
<ir_version: 10, opset_import: ["" : 22]>
g (float[N,4] x) => (float[N,4] y)
<{dtype}[N,4] a, {dtype}[N,4] b>
{{ a = Cast <to = {number}> (x)
   b = {operator} (a)
   y = Cast <to = 1> (b) }}
"""


def graph(operator: str, *, dtype: str = "bfloat16", number: int = TensorProto.BFLOAT16) -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH.format(operator=operator, dtype=dtype, number=number))
    entry = model.graph.node[1].metadata_props.add()
    entry.key, entry.value = "module", "backbone.act"
    return model


def element_type(model: onnx.ModelProto, name: str) -> int:
    (found,) = (v.type.tensor_type.elem_type for v in model.graph.value_info if v.name == name)
    return int(found)


@pytest.mark.parametrize(
    ("operator", "in_pytorch"), [("HardSwish", torch.nn.functional.hardswish), ("Mish", torch.nn.functional.mish)]
)
def test_the_values_equal_those_of_pytorch(operator, in_pytorch):
    model = add_bfloat16_fallback(graph(operator))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.linspace(-8, 8, 4000).reshape(-1, 4)
    (found,) = session.run(["y"], {"x": x.numpy()})
    expected = in_pytorch(x.bfloat16()).float().numpy()
    # the float32 values may differ in their last bit, and then round to neighbouring bfloat16 values
    assert (found == expected).mean() > 0.99
    np.testing.assert_allclose(found, expected, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("operator", ["HardSwish", "Mish", "LpNormalization"])
def test_the_node_runs_in_float32_between_two_casts(operator):
    model = add_bfloat16_fallback(graph(operator))
    before, node, after = model.graph.node[1:4]
    assert [n.op_type for n in (before, node, after)] == ["Cast", operator, "Cast"]
    assert (before.input[0], after.output[0]) == ("a", "b")
    assert element_type(model, node.input[0]) == element_type(model, node.output[0]) == TensorProto.FLOAT
    assert element_type(model, "b") == TensorProto.BFLOAT16
    assert all(n.metadata_props[0].value == "backbone.act" for n in (before, node, after))


@pytest.mark.parametrize(
    "model",
    [
        graph("Relu"),
        graph("Sigmoid"),
        graph("HardSwish", dtype="float16", number=TensorProto.FLOAT16),
        graph("HardSwish", dtype="float", number=TensorProto.FLOAT),
    ],
    ids=["Relu", "Sigmoid", "float16", "float32"],
)
def test_other_nodes_are_unchanged(model):
    before = model.SerializeToString()
    assert add_bfloat16_fallback(model).SerializeToString() == before


@pytest.mark.parametrize("operator", ["HardSwish", "Mish", "LpNormalization"])
def test_tensorrt_rtx_parses_the_operator_with_the_fallback_only(operator):
    network, _builder = parse_by_rtx(graph(operator))
    assert network is None, "the fallback is not needed any more"
    network, _builder = parse_by_rtx(add_bfloat16_fallback(graph(operator)))
    assert network is not None
