"""Operators that TensorRT does not support in bfloat16, and int8 models whose rest is float16."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support.quantized import SIZE, quantized
from support.rtx_network import parse_by_rtx

from frcnn.errors import ExportError
from frcnn.exporter.graph.half_precision import add_bfloat16_fallback, float16_rest
from frcnn.exporter.graph.nodes import int8_layers
from frcnn.exporter.graph.split import split

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


def unfused(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session that computes what is written: fused, ONNX Runtime multiplies scales in float16."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_an_int8_model_has_its_rest_in_float16(tiny_model):
    model = onnx.load(quantized(tiny_model, symmetric=True))
    before = model.SerializeToString(deterministic=True)
    half = float16_rest(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(half, full_check=True)
    assert int8_layers(half.graph) == int8_layers(model.graph)
    assert half.graph.output == model.graph.output
    assert element_type(half, "rois") == TensorProto.FLOAT and element_type(half, "pooled") == TensorProto.FLOAT16
    images = np.random.default_rng(2).normal(size=(2, 3, *SIZE)).astype(np.float32)
    expected = unfused(split(model).features).run(None, {"images": images})
    found = unfused(split(half).features).run(None, {"images": images.astype(np.float16)})
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == np.float16
        difference = np.abs(value - reference).mean()  # where rounding to int8 goes the other way, by a whole step
        assert difference < 0.05 * np.abs(reference).mean()


def test_what_is_float32_always_stays_so():
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N,1,4,4] x) => (float[N,1,8,8] y) <float[N,1,8,8] a, float[N,1,4,4] c>
        { c = Cast <to = 1> (x) b = Add (c, bias) a = Resize (b, , scales) y = Cast <to = 1> (a) }"""
    )
    values = {"bias": np.float32(0.5), "scales": np.array([1, 1, 2, 2], np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    kinds = {tensor.name: tensor.data_type for tensor in float16_rest(model).graph.initializer}
    assert kinds == {"bias": TensorProto.FLOAT16, "scales": TensorProto.FLOAT}


def test_a_weight_beyond_float16_is_refused():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[4] x) => (float[4] y) { y = Add (x, large) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(70_000), "large"))
    with pytest.raises(ExportError, match="large is too large for float16") as caught:
        float16_rest(model)
    assert "--precision fp32" in caught.value.hint
