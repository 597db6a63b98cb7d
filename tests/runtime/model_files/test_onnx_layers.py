"""The precision of layers, told from the types in a graph."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from frcnn.runtime.model_files.artifact import count_precisions, layer_precisions


def precisions(body: str, head: str = "float[N,4,8,8] x, float[4,4,1,1] w") -> list[str]:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> graph ({head}) => (float[N,4,8,8] y) {{ {body} }}'
    )
    return [layer.precision for layer in layer_precisions(model.graph, onnx)]


ROUND = "q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) b = DequantizeLinear (k, s, z)"
INT8 = "float[N,4,8,8] x, float[4,4,1,1] w, int8[4,4,1,1] k, float s, int8 z"


@pytest.mark.parametrize(
    ("body", "head", "expected"),
    [
        ("y = Conv (x, w)", "float[N,4,8,8] x, float[4,4,1,1] w", ["fp32"]),
        ("y = Conv (x, w)", "float16[N,4,8,8] x, float16[4,4,1,1] w", ["fp16"]),
        ("y = MatMul (x, w)", "bfloat16[N,4,8,8] x, bfloat16[4,4,1,1] w", ["bf16"]),
        (f"{ROUND} y = Conv (a, b)", INT8, ["int8"]),
        (f"{ROUND} y = Conv (a, w)", INT8, ["fp32"]),
        (f"{ROUND} y = Conv (x, b)", INT8, ["fp32"]),
        (f"{ROUND} c = Conv (a, b) y = ConvTranspose (c, w)", INT8, ["int8", "fp32"]),
        ("h = Relu (x) v = Relu (w) y = Conv (h, v)", "float[N,4,8,8] x, float[4,4,1,1] w", ["unknown"]),
        ("y = Relu (x)", "float[N,4,8,8] x", []),
    ],
)
def test_a_layer_is_int8_where_both_factors_are_dequantised(body, head, expected):
    assert precisions(body, head) == expected


def test_a_graph_of_nonsense_is_told_as_far_as_it_goes():
    graph = onnx.GraphProto()
    graph.node.add(op_type="DequantizeLinear", output=["a"])
    graph.node.add(op_type="DequantizeLinear", input=["x", "s"])
    graph.node.add(op_type="Conv")
    graph.node.add(op_type="Gemm", input=["a", "a"], name="g")
    graph.initializer.add(name="a", data_type=999)
    layers = layer_precisions(graph, onnx)
    assert [layer.precision for layer in layers] == ["unknown", "unknown"]
    assert count_precisions(layers) == {"unknown": 2}
