"""The types of exported models in network definitions, and graphs with wrong types, which are refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto
from support.quantized import quantized

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import parse_network
from frcnn.exporter.engine.precision_proof import Layer, layers_of_model, layers_of_network, prove
from frcnn.exporter.engine.steps import make_steps
from frcnn.exporter.graph.nodes import int8_layers, quantized_values
from frcnn.exporter.graph.split import split
from frcnn.spec import Precision
from frcnn.spec.engine import Target

FAMILY = "vgg16"
ELEMENTS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Edit = Callable[[onnx.ModelProto], None]


def layers_of(model: onnx.ModelProto, target: Target = "tensorrt-rtx") -> list[Layer]:
    steps = make_steps(split(model), target)
    layers: list[Layer] = []
    for index, (part, network) in enumerate(steps.models.items()):
        if target == "onnxruntime":
            layers += layers_of_model(network, index)
        else:
            trt = importlib.import_module("tensorrt_rtx")
            layers += layers_of_network(parse_network(trt, network, steps.tensors, name=part), index)
    return layers


def compute_in(name: str, kind: int, back: int) -> Edit:
    """Have a node compute in another type, between casts to it and back."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        (at,) = (i for i, node in enumerate(graph.node) if node.name == name)
        node = graph.node[at]
        before = []
        for index, value in enumerate(node.input):
            node.input[index] = f"{value}/other"
            before.append(
                onnx.helper.make_node("Cast", [value], [f"{value}/other"], name=f"{name}/in_{index}", to=kind)
            )
        output = node.output[0]
        node.output[0] = f"{output}/other"
        after = onnx.helper.make_node("Cast", [f"{output}/other"], [output], name=f"{name}/out", to=back)
        nodes = [*graph.node[:at], *before, node, after, *graph.node[at + 1 :]]
        copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    return edit


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
@pytest.mark.parametrize(
    ("family", "precision"),
    [("vgg16", "fp32"), ("vgg16", "fp16"), ("resnet50_fpn", "fp16"), ("convnext_fpn", "fp16"), ("swin_fpn", "fp16")],
)
def test_exported_models_have_the_requested_types(family, precision, target, exports):
    model = onnx.load(exports(family, precision).path)
    proof = prove(layers_of(model, target), precision)

    heavy_nodes = {
        node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose")
    }
    records = proof.records()
    assert {record.layer for record in records if record.heavy} == heavy_nodes
    assert {record.element for record in records if record.heavy} == {ELEMENTS[precision]}
    assert proof.summary == f"{proof.heavy} of {proof.heavy} convolutions and matrix products in {precision}"
    assert proof.heavy == len(heavy_nodes)
    names = {record.layer for record in records}
    for part in ("backbone/", "rpn/head/", "box_head", "box_predictor"):
        assert any(part in name for name in names)
    assert {record.step for record in records} == {0, 1}


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
def test_bfloat16_passes_with_what_tensorrt_computes_in_float32(target, exports):
    proof = prove(layers_of(onnx.load(exports(FAMILY, "bf16").path), target), "bf16")
    assert {record.element for record in proof.records() if record.heavy} == {"bfloat16"}
    assert proof.heavy == 17


@pytest.fixture(scope="module")
def int8_model(tiny_model):
    """Return the tiny model as TensorRT takes it in int8."""
    return onnx.load(quantized(tiny_model, symmetric=True))


PREDICTIONS = {f"rpn/head/{name}/Conv" for name in ("cls_logits", "bbox_pred")}
PREDICTIONS |= {f"roi_heads/box_predictor/{name}/Gemm" for name in ("cls_score", "bbox_pred")}


@pytest.mark.slow
def test_layers_are_int8_where_the_model_has_them_so(int8_model):
    int8 = int8_layers(int8_model.graph)
    proof = prove(layers_of(int8_model), "int8", int8=int8)
    assert proof.summary == "5 of 9 convolutions and matrix products in int8, 4 in fp32"
    heavy = {record.layer: record.element for record in proof.records() if record.heavy}
    assert {name for name, element in heavy.items() if element == "int8"} == int8
    assert {name for name, element in heavy.items() if element == "float32"} == PREDICTIONS


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0, 1], ids=["input", "weights"])
def test_an_int8_layer_that_reads_a_float_is_refused(factor, int8_model):
    int8 = int8_layers(int8_model.graph)
    model = onnx.ModelProto.FromString(int8_model.SerializeToString())
    (node,) = (node for node in model.graph.node if node.name == "roi_heads/box_head/fc7/Gemm")
    if factor == 0:
        node.input[0] = quantized_values(model.graph)[node.input[0]]
    else:
        (maker,) = (maker for maker in model.graph.node if node.input[1] in maker.output)
        maker.op_type = "Cast"
        del maker.input[1:], maker.attribute[:]
        maker.attribute.append(onnx.helper.make_attribute("to", TensorProto.FLOAT))
    message = r"expected 5 of 9 .* in int8, got 8; not roi_heads/box_head/fc7/Gemm \(float32\)"
    with pytest.raises(ExportError, match=message) as caught:
        prove(layers_of(model), "int8", int8=int8)
    assert "frcnn quantize" in caught.value.hint


@pytest.mark.slow
def test_a_float_layer_that_reads_int8_is_refused(int8_model):
    int8 = int8_layers(int8_model.graph) - {"rpn/head/conv/0/0/Conv"}
    with pytest.raises(ExportError, match=r"got 8; not rpn/head/conv/0/0/Conv \(int8\)"):
        prove(layers_of(int8_model), "int8", int8=int8)


def test_a_float_model_is_no_int8_model(tiny_model):
    with pytest.raises(ExportError, match="expected 0 of 9 convolutions and matrix products"):
        prove(layers_of(onnx.load(tiny_model)), "int8")


WRONG: dict[str, tuple[Precision, Edit, str]] = {
    "a convolution left in float32": (
        "fp16",
        compute_in("backbone/2/Conv", TensorProto.FLOAT, TensorProto.FLOAT16),
        "precision: expected all 17 convolutions and matrix products of the backbone and the heads in fp16, got 16; "
        "not backbone/2/Conv (float32)",
    ),
    "a fully connected layer left in float32": (
        "fp16",
        compute_in("roi_heads/box_head/fc6/Gemm", TensorProto.FLOAT, TensorProto.FLOAT16),
        "got 16; not roi_heads/box_head/fc6/Gemm (float32)",
    ),
    "a convolution in half among float32": (
        "fp32",
        compute_in("rpn/head/conv/0/0/Conv", TensorProto.FLOAT16, TensorProto.FLOAT),
        "in fp32, got 16; not rpn/head/conv/0/0/Conv (float16)",
    ),
    "an activation in a third type": (
        "fp16",
        compute_in("backbone/1/Relu", TensorProto.BFLOAT16, TensorProto.FLOAT16),
        "precision: expected every layer in fp16 or fp32, got 3 of another type: backbone/1/Relu/in_0 "
        "(bfloat16/float16), backbone/1/Relu (bfloat16), backbone/1/Relu/out (float16/bfloat16)",
    ),
}


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_type_is_refused_with_the_name_of_its_layer(case, target, exports):
    precision, edit, message = WRONG[case]
    model = onnx.load(exports(FAMILY, precision).path)
    prove(layers_of(model, target), precision)
    edit(model)
    with pytest.raises(ExportError) as caught:
        prove(layers_of(model, target), precision)
    assert message in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_other_layers_may_compute_in_float32(exports):
    model = onnx.load(exports(FAMILY, "fp16").path)
    compute_in("backbone/1/Relu", TensorProto.FLOAT, TensorProto.FLOAT16)(model)
    assert prove(layers_of(model), "fp16").heavy == 17


def test_another_precision_is_refused_with_all_layers(exports):
    layers = layers_of(onnx.load(exports(FAMILY).path))
    with pytest.raises(ExportError, match=r"in fp16, got 0; not backbone/\S+ \(float32\), .* and 14 more ") as caught:
        prove(layers, "fp16")
    assert len(caught.value.__notes__) == 17


def test_a_model_without_heavy_layers_is_refused(exports):
    layers = [layer for layer in layers_of(onnx.load(exports(FAMILY).path)) if not layer.is_heavy]
    with pytest.raises(ExportError, match=r"expected all 0 convolutions"):
        prove(layers, "fp32")
