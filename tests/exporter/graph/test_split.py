"""An exported model, split: two networks of standard operators, which compute what the model does with the stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from support.exports import Exported, bare_session, run_bare
from support.families import FAMILIES
from support.images import LANDSCAPE, PORTRAIT, network_input

from frcnn.errors import ExportError
from frcnn.exporter.graph.split import Networks, split
from frcnn.plugins import DOMAIN
from frcnn.spec.engine import OUTPUTS

TWO_SIZES = ((160, 224), (224, 160))
FLOAT, HALF, BF16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16

PLAIN = {"Conv", "Gemm", "Relu", "Add", "MaxPool", "Resize", "Reshape"} | {"Shape", "Concat"}
"""Layers of the networks, and the sizes that Resize takes."""

Arrays = dict[str, NDArray[Any]]


def run_split(model: onnx.ModelProto, parts: Networks) -> Callable[[Arrays], Arrays]:
    """Return a way to run the parts in ONNX Runtime, the operators each alone by its function body."""
    features, boxes = (bare_session(part.SerializeToString()) for part in (parts.features, parts.boxes))
    known = {v.name: v for v in (*model.graph.input, *model.graph.output, *model.graph.value_info)}

    def alone(node: onnx.NodeProto) -> Any:
        inputs, outputs = ([known[name] for name in names] for names in (node.input, node.output))
        graph = onnx.helper.make_graph([node], node.op_type, inputs, outputs)
        made = onnx.helper.make_model(graph, functions=model.functions, opset_imports=model.opset_import)
        made.ir_version = model.ir_version
        return bare_session(made.SerializeToString())

    order = [features, alone(parts.proposals), alone(parts.pooling), boxes, alone(parts.detections)]

    def run(values: Arrays) -> Arrays:
        for session in order:
            names = [value.name for value in session.get_outputs()]
            made = session.run(names, {value.name: values[value.name] for value in session.get_inputs()})
            values = values | dict(zip(names, made, strict=True))
        return values

    return run


def assert_equals_the_model(export: Exported, session: Any, shapes: tuple[tuple[int, int], ...]) -> None:
    model = onnx.load(export.path)
    run = run_split(model, split(model))
    for shape, batch in zip(shapes, (3, 1), strict=False):
        images, sizes = network_input(export.model, export.spec, shape)
        expected = run_bare(session, images[:batch], sizes[:batch])
        found = run({"images": images[:batch].numpy(), "image_sizes": np.array(sizes[:batch], np.int32)})
        assert expected[0].min() > 5
        for name, value in zip(OUTPUTS, expected, strict=True):
            assert found[name].dtype == value.dtype and found[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_give_the_outputs_of_the_model(family, exports):
    """In float32, bit by bit. In half precision ONNX Runtime omits roundings that a joint needs."""
    export = exports(family)
    assert_equals_the_model(export, exports.session(export), (LANDSCAPE, PORTRAIT))


@pytest.mark.parametrize(
    ("family", "size", "shapes"),
    [("vgg16", (160, 224), (LANDSCAPE,)), ("resnet18_fpn_max", TWO_SIZES, (LANDSCAPE, PORTRAIT))],
)
def test_the_parts_of_a_limited_canvas_give_the_outputs_of_the_model(family, size, shapes, exports):
    export = exports(family, size=size)
    assert_equals_the_model(export, exports.session(export), shapes)


@pytest.mark.parametrize(
    ("family", "precision", "element"),
    [("vgg16", "fp32", FLOAT), ("resnet50_fpn", "fp16", HALF), ("vgg16", "bf16", BF16)],
)
def test_the_networks_are_models_of_standard_operators_with_types_at_the_joints(family, precision, element, exports):
    export = exports(family, precision)
    model = onnx.load(export.path)
    before = model.SerializeToString()
    parts = split(model)
    assert model.SerializeToString() == before
    levels, pooled = export.spec.rpn.num_levels, len(export.spec.roi_heads.pooler.feature_names)
    maps = [f"{name}_{i}" for name in ("objectness", "deltas") for i in range(levels)]
    joints = (
        (["images"], [*maps, *(f"features_{i}" for i in range(pooled))]),
        (["pooled"], ["class_logits", "box_deltas"]),
    )
    for part, (inputs, outputs) in zip((parts.features, parts.boxes), joints, strict=True):
        onnx.checker.check_model(part, full_check=True)
        assert [value.name for value in part.graph.input] == inputs
        assert [value.name for value in part.graph.output] == outputs
        assert {node.domain for node in part.graph.node} == {""} and not part.functions
        assert {node.op_type for node in part.graph.node} <= PLAIN
        assert [(entry.domain, entry.version) for entry in part.opset_import] == [("", export.manifest.opset)]
        for value in (*part.graph.input, *part.graph.output):
            kind = value.type.tensor_type
            assert kind.elem_type == element
            assert kind.shape.dim[0].dim_param in ("batch", "rois")
            assert all(dim.dim_value or dim.dim_param for dim in kind.shape.dim), value.name
    nodes = [node.name for part in (parts.features, parts.boxes) for node in part.graph.node]
    ours = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [parts.proposals, parts.pooling, parts.detections] == ours
    assert sorted([*nodes, *(node.name for node in ours)]) == sorted(node.name for node in model.graph.node)
    weights = [tensor for part in (parts.features, parts.boxes) for tensor in part.graph.initializer]
    assert sorted(t.SerializeToString() for t in weights) == sorted(
        t.SerializeToString() for t in model.graph.initializer
    )


VERSION_1 = """
<ir_version: 10, opset_import: ["" : 20, "frcnn" : 1]>
g (float[N,M,4] boxes, float[N,M] scores) => (float[N,M] kept)
{ kept = frcnn.GroupedNMS <iou_threshold = 0.5> (boxes, scores) }
"""
"""The operators of a file of version 1 of the domain."""

GRAPH = """
<ir_version: 10, opset_import: ["" : 20, "frcnn" : 2]>
g (float[N,3,H,W] images, int32[N,2] image_sizes)
  => (int32[N] num_detections, float[N,K,4] boxes, float[N,K] scores, int32[N,K] labels)
<float[N,3,H,W] objectness_0, float[N,3,H,W] deltas_0, float[N,3,H,W] features_0, float[N,R,4] rois,
 float[M,3,7,7] pooled, float[M,3] class_logits, float[M,12] box_deltas>
{ objectness_0 = Neg (images)
  deltas_0 = Neg (objectness_0)
  features_0 = Abs (images)
  rois = frcnn.RegionProposals (image_sizes, images, objectness_0, deltas_0)
  pooled = frcnn.MultiscaleRoIPool (rois, features_0)
  means = ReduceMean <keepdims = 0> (pooled, axes)
  class_logits = Relu (means)
  box_deltas = Concat <axis = 1> (class_logits, class_logits, means, means)
  num_detections, boxes, scores, labels = frcnn.BoxDetections (rois, image_sizes, class_logits, box_deltas) }
"""


def graph(old: str = "", new: str = "") -> onnx.ModelProto:
    assert old in GRAPH
    model = onnx.parser.parse_model(GRAPH.replace(old, new) if old else GRAPH)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    return model


def test_a_hand_made_detector_is_split():
    parts = split(graph())
    assert [node.op_type for node in parts.features.graph.node] == ["Neg", "Neg", "Abs"]
    assert [node.op_type for node in parts.boxes.graph.node] == ["ReduceMean", "Relu", "Concat"]
    assert [tensor.name for tensor in parts.boxes.graph.initializer] == ["axes"]
    assert not parts.features.graph.initializer


def test_operators_of_an_int8_model_read_what_is_not_rounded():
    model = graph(
        "features_0 = Abs (images)",
        "features_0 = Abs (images) q = QuantizeLinear (features_0, scale) back = DequantizeLinear (q, scale)",
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "scale"))
    (pooling,) = (node for node in model.graph.node if node.op_type == "MultiscaleRoIPool")
    pooling.input[1] = "back"
    parts = split(model)
    assert list(parts.pooling.input) == ["rois", "features_0"] and list(pooling.input) == ["rois", "back"]
    assert [value.name for value in parts.features.graph.output] == ["objectness_0", "deltas_0", "features_0"]
    assert [node.op_type for node in parts.features.graph.node] == ["Neg", "Neg", "Abs"]


def test_a_file_of_version_1_is_to_be_exported_again():
    with pytest.raises(ExportError, match=r"expected RegionProposals, .* got GroupedNMS") as caught:
        split(onnx.parser.parse_model(VERSION_1))
    assert caught.value.hint == "export the checkpoint again with this version of frcnn"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("frcnn.MultiscaleRoIPool (rois, features_0)", "Identity (rois)", "got RegionProposals, BoxDetections"),
        ("(image_sizes, images, obj", "(images, image_sizes, obj", "its operators are joined in another way"),
        ("Pool (rois, ", "Pool (class_logits, ", "its operators are joined in another way"),
        (
            "float[N,3,H,W] images, int32[N,2] image_sizes",
            "int32[N,2] image_sizes, float[N,3,H,W] images",
            "in another",
        ),
        ("Relu (means)", "Add (means, images)", "its boxes network lacks images"),
        ("Relu (means)", "Add (means, rois)", "its boxes network lacks image_sizes, images"),
        ("Relu (means)", "Add (means, nowhere)", "its boxes network lacks nowhere"),
        ("Neg (images)", "Add (images, image_sizes)", "its features network lacks image_sizes"),
        ("Relu (means)", "other.Relu (means)", "its boxes network holds Relu"),
        (", float[M,12] box_deltas>", ">", "its boxes network has no types for box_deltas"),
    ],
)
def test_another_graph_is_refused(old, new, message):
    model = graph(old, new)
    with pytest.raises(ExportError, match=message) as caught:
        split(model)
    assert caught.value.hint
