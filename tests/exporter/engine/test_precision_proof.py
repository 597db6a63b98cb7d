"""The types of exported models in network definitions, and graphs with wrong types, which are refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from frcnn.errors import ExportError
from frcnn.exporter.engine.precision_proof import HEAVY_SCOPES, Layer, operator_layer, prove, read_layers
from frcnn.exporter.engine.steps import steps_between_operators
from frcnn.plugins import OPERATORS
from frcnn.spec import Precision
from frcnn.spec.engine import EngineStep

FAMILY = "vgg16"
Edit = Callable[[onnx.ModelProto], None]


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    made = steps_between_operators(importlib.import_module("tensorrt_rtx"), model)
    layers: list[Layer] = []
    for index, step in enumerate(made.steps):
        if isinstance(step, EngineStep):
            layers += read_layers(made.networks[step.part], index)
        else:
            layers.append(operator_layer(step, index, made.tensors))
    return layers


class Nameless:
    """A network definition in which only convolutions and matrix products name their node."""

    def __init__(self, definition: Any) -> None:
        self.definition = definition
        self.num_layers = definition.num_layers

    def get_layer(self, index: int) -> Any:
        layer = self.definition.get_layer(index)
        names = ("type", "name", "num_inputs", "num_outputs", "get_input", "get_output")
        metadata = layer.metadata if layer.type.name in ("MATRIX_MULTIPLY", "CONVOLUTION") else ""
        return SimpleNamespace(metadata=metadata, **{name: getattr(layer, name) for name in names})


def test_a_layer_without_a_node_belongs_to_the_node_whose_value_it_makes(exports):
    """TensorRT 10.6 names the product of a Gemm, not the sum with its bias, which the cast to float32 reads."""
    model = onnx.load(exports(FAMILY, "fp16").path)
    made = steps_between_operators(importlib.import_module("tensorrt_rtx"), model)
    steps = [step for step in made.steps if isinstance(step, EngineStep)]
    for index, step in enumerate(steps):
        network = made.networks[step.part]
        whole = read_layers(network, index)
        found = read_layers(replace(network, definition=Nameless(network.definition)), index)
        assert [layer.kind for layer in found] == [layer.kind for layer in whole]
        computing = [(layer.node, layer.is_free) for layer in whole if layer.kind == "ELEMENTWISE"]
        assert [(layer.node, layer.is_free) for layer in found if layer.kind == "ELEMENTWISE"] == computing
        if any(layer.is_heavy for layer in found):
            prove(found, "fp16")


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


def half_scores_to_nms(model: onnx.ModelProto) -> None:
    graph = model.graph
    (at,) = (i for i, node in enumerate(graph.node) if node.name == "rpn/GroupedNMS")
    scores = graph.node[at].input[1]
    graph.node[at].input[1] = "scores/half"
    graph.value_info.append(onnx.helper.make_tensor_value_info("scores/half", TensorProto.FLOAT16, ["groups", "boxes"]))
    cast = onnx.helper.make_node("Cast", [scores], ["scores/half"], name="rpn/half", to=TensorProto.FLOAT16)
    graph.node.insert(at, cast)


@pytest.mark.parametrize(
    ("family", "precision"),
    [("vgg16", "fp32"), ("vgg16", "fp16"), ("resnet50_fpn", "fp16"), ("convnext_fpn", "fp16"), ("swin_fpn", "fp16")],
)
def test_exported_models_have_the_requested_types(family, precision, exports):
    model = onnx.load(exports(family, precision).path)
    layers = layers_of(model)
    proof = prove(layers, precision)

    heavy_nodes = {
        node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose")
    }
    element = {"fp32": "float32", "fp16": "float16"}[precision]
    records = proof.records()
    assert {record.layer for record in records if record.heavy} == heavy_nodes
    assert {record.element for record in records if record.heavy} == {element}
    assert proof.summary == f"{proof.heavy} of {proof.heavy} convolutions and matrix products in {precision}"
    assert proof.heavy == len(heavy_nodes)
    names = {record.layer for record in records}
    assert all(any(part in name for name in names) for part in ("Softmax", "Exp", "Sigmoid", "backbone/", "box_head/"))
    for record in records:
        if not record.layer.startswith(HEAVY_SCOPES) and record.type in ("ELEMENTWISE", "UNARY", "SOFTMAX", "REDUCE"):
            assert record.element == "float32", record
    assert not {record.type for record in records} & set(OPERATORS)


def test_a_layer_that_the_parser_inserted_belongs_to_the_node_that_reads_it(exports):
    layers = layers_of(onnx.load(exports(FAMILY, "fp16").path))
    moved = [layer for layer in layers if layer.element == "float16" and layer.kind in ("CONSTANT", "SHUFFLE")]
    assert any("box_predictor" in layer.node for layer in moved)
    assert not [layer.node for layer in moved if layer.node.startswith("ONNXTRT")]


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
    "decoding in half": (
        "fp16",
        compute_in("rpn/Exp", TensorProto.FLOAT16, TensorProto.FLOAT),
        "precision: expected arithmetic on boxes and scores in float32, got 1 of another type: rpn/Exp (float16)",
    ),
    "softmax in half": (
        "fp16",
        compute_in("roi_heads/Softmax", TensorProto.FLOAT16, TensorProto.FLOAT),
        "got 1 of another type: roi_heads/Softmax (float16)",
    ),
    "NMS of half scores": ("fp16", half_scores_to_nms, "got 1 of another type: rpn/GroupedNMS (float32/float16)"),
    "a third type in a heavy part": (
        "fp16",
        compute_in("backbone/1/Relu", TensorProto.BFLOAT16, TensorProto.FLOAT16),
        "precision: expected arithmetic of the heavy parts in fp16 or fp32, got 1 of another type: "
        "backbone/1/Relu (bfloat16)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_type_is_refused_with_the_name_of_its_layer(case, exports):
    precision, edit, message = WRONG[case]
    model = onnx.load(exports(FAMILY, precision).path)
    prove(layers_of(model), precision)
    edit(model)
    with pytest.raises(ExportError) as caught:
        prove(layers_of(model), precision)
    assert message in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_other_layers_of_heavy_parts_may_compute_in_float32(exports):
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
