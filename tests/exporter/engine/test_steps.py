"""The steps of an artifact: types and layouts of the tensors, and what the engines of every family hold."""

from __future__ import annotations

import importlib
from typing import Any

import onnx
import pytest
from onnx import TensorProto
from support.families import FAMILIES

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import parse_network
from frcnn.exporter.engine.steps import Steps, make_steps
from frcnn.exporter.graph.split import Networks, split
from frcnn.spec.engine import INPUTS, OUTPUTS, EngineStep, EngineTensor, OperatorStep, Target

PLAIN = {
    *("CONVOLUTION", "MATRIX_MULTIPLY", "POOLING", "RESIZE", "ACTIVATION", "ELEMENTWISE", "NORMALIZATION", "REDUCE"),
    *("CONCATENATION", "SHUFFLE", "SLICE", "CAST", "CONSTANT", "SHAPE"),
}
SHIFTED_WINDOWS = {
    *("SOFTMAX", "UNARY", "FILL", "GATHER", "IDENTITY", "SCATTER", "SELECT", "SQUEEZE", "UNSQUEEZE"),
}
"""What Swin has besides: attention, and indices and masks of windows, which it makes of sizes."""


def networks_of(exports: Any, family: str = "vgg16", precision: Any = "fp16") -> Networks:
    return split(onnx.load(exports(family, precision).path))


def layouts_of(steps: Steps) -> dict[str, str]:
    return {name: tensor.layout for name, tensor in steps.tensors.items() if tensor.layout != "planar"}


@pytest.mark.parametrize(
    ("target", "suffix"), [("tensorrt-rtx", "plan"), ("tensorrt", "plan"), ("onnxruntime", "onnx")]
)
def test_a_detection_is_two_networks_and_three_operators(target: Target, suffix, exports):
    steps = make_steps(networks_of(exports, "resnet18_fpn_max"), target)
    levels = [tuple(f"{name}_{i}" for i in range(count)) for name, count in (("objectness", 5), ("deltas", 5))]
    maps = tuple(f"features_{i}" for i in range(3))
    assert [(type(step), getattr(step, "part", getattr(step, "node", None))) for step in steps.steps] == [
        (EngineStep, f"engines/features.{suffix}"),
        (OperatorStep, "rpn/RegionProposals"),
        (OperatorStep, "roi_heads/MultiscaleRoIPool"),
        (EngineStep, f"engines/boxes.{suffix}"),
        (OperatorStep, "roi_heads/BoxDetections"),
    ]
    assert [(step.inputs, step.outputs) for step in steps.steps] == [
        (("images",), (*levels[0], *levels[1], *maps)),
        (("image_sizes", "images", *levels[0], *levels[1]), ("rois",)),
        (("rois", *maps), ("pooled",)),
        (("pooled",), ("class_logits", "box_deltas")),
        (("rois", "image_sizes", "class_logits", "box_deltas"), OUTPUTS),
    ]
    assert list(steps.models) == [f"engines/features.{suffix}", f"engines/boxes.{suffix}"]
    assert {name for name, tensor in steps.tensors.items() if tensor.element == "float16"} == {
        *("images", *levels[0], *levels[1], *maps, "pooled", "class_logits", "box_deltas")
    }
    assert {name: steps.tensors[name].element for name in ("image_sizes", "rois", *OUTPUTS)} == {
        "image_sizes": "int32",
        "rois": "float32",
        "num_detections": "int32",
        "boxes": "float32",
        "scores": "float32",
        "labels": "int32",
    }
    assert {name: tensor.channels for name, tensor in steps.tensors.items() if tensor.channels} == dict.fromkeys(
        maps, 32
    )
    assert all(steps.tensors[name].layout == "planar" for name in (*INPUTS, *OUTPUTS))


def test_a_head_that_begins_with_a_convolution_reads_pooled_features_channels_last(exports):
    networks = networks_of(exports, "resnet50_c4")
    assert layouts_of(make_steps(networks, "tensorrt-rtx")) == {
        "features_0": "channels_last",
        "pooled": "channels_last",
    }
    assert layouts_of(make_steps(networks, "onnxruntime")) == {"features_0": "nhwc"}


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
@pytest.mark.parametrize("channels", [63, None])
def test_maps_that_no_channels_last_kernel_takes_stay_planar(channels, target: Target, exports):
    """63 halves are no vectors of 16 bytes, and HWC8 would pad them; nor is a kernel made for an open number."""
    networks = networks_of(exports)
    (maps,) = (value for value in networks.features.graph.output if value.name == "features_0")
    dim = maps.type.tensor_type.shape.dim[1]
    dim.Clear()
    if channels is not None:
        dim.dim_value = channels
    steps = make_steps(networks, target)
    assert layouts_of(steps) == {}
    assert steps.tensors["features_0"] == EngineTensor(element="float16", channels=channels)


def test_an_operator_that_reads_another_type_than_it_takes_is_refused(exports):
    networks = networks_of(exports)
    (value,) = (value for value in networks.features.graph.output if value.name == "objectness_0")
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ExportError) as caught:
        make_steps(networks, "tensorrt-rtx")
    assert caught.value.message == "rpn/RegionProposals takes objectness_0 as float16, got float32"
    value.type.tensor_type.elem_type = TensorProto.INT8
    with pytest.raises(ExportError, match=r"objectness_0: expected elements of float32, .*, got INT8"):
        make_steps(networks, "tensorrt-rtx")


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "given"),
    [
        ("proposals", ["image_sizes", "images", "objectness_0"], ["rois"], "3 inputs and 1 outputs"),
        ("pooling", ["rois"], ["pooled"], "1 inputs and 1 outputs"),
        ("detections", ["rois", "image_sizes", "class_logits"], [*OUTPUTS], "3 inputs and 4 outputs"),
        ("detections", ["rois", "image_sizes", "class_logits", "box_deltas"], ["boxes"], "4 inputs and 1 outputs"),
    ],
)
def test_an_operator_with_other_inputs_or_outputs_than_its_spec_is_refused(operator, inputs, outputs, given, exports):
    networks = networks_of(exports)
    node = getattr(networks, operator)
    node.input[:], node.output[:] = inputs, outputs
    with pytest.raises(ExportError, match=f"{node.op_type} has no form with {given}"):
        make_steps(networks, "tensorrt-rtx")


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_hold_plain_layers_only(family, exports):
    """No sorting, selection or suppression: these are the operators' between the engines."""
    trt: Any = importlib.import_module("tensorrt_rtx")
    steps = make_steps(networks_of(exports, family), "tensorrt-rtx")
    for part, model in steps.models.items():
        definition = parse_network(trt, model, steps.tensors, name=part).definition
        kinds = {definition.get_layer(index).type.name for index in range(definition.num_layers)}
        assert "CONVOLUTION" in kinds or "MATRIX_MULTIPLY" in kinds
        allowed = PLAIN | SHIFTED_WINDOWS if (family, part) == ("swin_fpn", "engines/features.plan") else PLAIN
        assert kinds <= allowed
