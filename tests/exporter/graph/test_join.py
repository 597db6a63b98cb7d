"""The graph in ``model.onnx``: two networks joined by the operators, their names, bodies and element types."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from support.families import build

from frcnn.errors import ExportError
from frcnn.exporter.graph.join import join_networks
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.exporter.model.stages import Stages, read_stages
from frcnn.plugins import DOMAIN, VERSION

FLOAT, HALF, BF16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
INT32 = onnx.TensorProto.INT32

POOLING = {"vgg16": ("MultiscaleRoIPool", 1), "resnet18_fpn_max": ("MultiscaleRoIPool", 3)}
POOLING |= {"resnet50_fpn": ("MultiscaleRoIAlign", 4), "swin_fpn": ("MultiscaleRoIAlign", 2)}


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return types | {t.name: t.data_type for t in graph.initializer}


@pytest.mark.parametrize("family", POOLING)
def test_a_graph_is_two_networks_joined_by_three_operators_with_their_functions(family, exports):
    export = exports(family)
    model = onnx.load(export.path)
    levels, (pooling, pooled) = export.spec.rpn.num_levels, POOLING[family]
    objectness, deltas, features = (
        [f"{name}_{i}" for i in range(count)]
        for name, count in (("objectness", levels), ("deltas", levels), ("features", pooled))
    )
    found = {node.name: (list(node.input), list(node.output)) for node in model.graph.node if node.domain == DOMAIN}
    assert found == {
        "rpn/RegionProposals": (["image_sizes", "images", *objectness, *deltas], ["rois"]),
        f"roi_heads/{pooling}": (["rois", *features], ["pooled"]),
        "roi_heads/BoxDetections": (
            ["rois", "image_sizes", "class_logits", "box_deltas"],
            ["num_detections", "boxes", "scores", "labels"],
        ),
    }
    assert {node.domain for node in model.graph.node} == {"", DOMAIN}
    names = ["RegionProposals", pooling, "BoxDetections"]
    assert [(f.domain, f.name) for f in model.functions] == [(DOMAIN, name) for name in names]
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20, DOMAIN: VERSION}


def test_attributes_are_those_of_the_stages(exports):
    export = exports("resnet18_fpn_max")
    stages = read_stages(export.model, export.spec.roi_heads.pooler)
    nodes = [node for node in onnx.load(export.path).graph.node if node.domain == DOMAIN]
    for node, stage in zip(nodes, (stages.proposals, stages.pooling, stages.detections), strict=True):
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        stated = {name: list(value) if isinstance(value, tuple) else value for name, value in stage.attributes.items()}
        assert values == stated


def test_nodes_values_and_weights_are_named_after_modules(exports):
    graph = onnx.load(exports("resnet50_c4").path).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    paths = {name.rsplit("/", 1)[0].split("/")[0] for name in names}
    assert paths == {"backbone", "rpn", "roi_heads"}
    inner = {f"{node.name}:{i}" for node in graph.node for i, _ in enumerate(node.output)}
    joints = {value.name for value in (*graph.input, *graph.output)} | {"objectness_0", "deltas_0", "features_0"}
    joints |= {"rois", "pooled", "class_logits", "box_deltas"}
    assert {value for node in graph.node for value in node.output} <= inner | joints
    assert {"backbone/0/Conv", "rpn/head/cls_logits/Conv", "roi_heads/box_predictor/cls_score/Gemm"} <= set(names)
    weights = [tensor.name for tensor in graph.initializer if len(tensor.dims) > 1]
    assert len(set(weights)) == len(weights)
    assert {"backbone.0.weight", "rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight"} <= {*weights}


@pytest.mark.parametrize(("family", "proposals"), [("vgg16", 100), ("resnet50_c4", 40)])
def test_values_at_the_joints_have_shapes(family, proposals, exports):
    graph = onnx.load(exports(family).path).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    assert shapes["rois"] == ["batch", proposals, 4]
    assert [shapes[f"{name}_0"][:2] for name in ("objectness", "deltas")] == [["batch", 9], ["batch", 36]]
    assert (shapes["class_logits"], shapes["box_deltas"]) == (["rois", 7], ["rois", 28])
    assert shapes["pooled"] == ["rois", shapes["features_0"][1], *([8, 8] if family == "resnet50_c4" else [7, 7])]
    assert len(shapes) == len(graph.value_info)


@pytest.mark.parametrize(
    ("family", "precision", "element"),
    [
        ("resnet18_fpn_max", "fp32", FLOAT),
        ("vgg16", "fp16", HALF),
        ("resnet50_fpn", "fp16", HALF),
        ("vgg16", "bf16", BF16),
        ("mobilenet_v3_large_fpn", "bf16", BF16),
    ],
)
def test_heavy_layers_have_the_precision_and_others_are_float32(family, precision, element, exports):
    model = onnx.load(exports(family, precision).path)
    types = element_types(model)
    inputs: dict[str, set[tuple[int, ...]]] = {}
    for node in model.graph.node:
        inputs.setdefault(node.op_type, set()).add(tuple(types[name] for name in node.input if name))
    heavy = {kind for name in ("Conv", "Gemm", "MatMul") for row in inputs.get(name, ()) for kind in row}
    assert heavy == {element}
    assert inputs["Conv"] and inputs["Gemm"]
    pooling, levels = POOLING.get(family, ("MultiscaleRoIAlign", 2))
    ((sizes, *maps),) = inputs["RegionProposals"]
    assert (sizes, set(maps)) == (INT32, {element})
    assert inputs[pooling] == {(FLOAT, *[element] * levels)}
    assert inputs["BoxDetections"] == {(FLOAT, INT32, element, element)}
    assert not {HALF, BF16, onnx.TensorProto.DOUBLE} - {element} & set(types.values())
    if precision == "bf16":
        assert inputs.get("HardSwish", {(FLOAT,)}) == {(FLOAT,)}, "TensorRT does not support bfloat16"
    assert {value.name: types[value.name] for value in (*model.graph.input, *model.graph.output)} == {
        "images": element,
        "image_sizes": INT32,
        "num_detections": INT32,
        "boxes": FLOAT,
        "scores": FLOAT,
        "labels": INT32,
    }


@pytest.fixture
def stages() -> Stages:
    model = build("vgg16")
    return read_stages(model, read_model_spec(model).roi_heads.pooler)


FEATURES = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,64,H,W] images)
  => (float[batch,9,H,W] objectness_0, float[batch,36,H,W] deltas_0, float[batch,64,H,W] features_0)
<float[1] val_0 = {1.0}>
{ val_1 = Relu (images)
  objectness_0 = Neg (val_1)
  deltas_0 = Neg (val_1)
  features_0 = Add (images, val_0) }
"""
BOXES = """
<ir_version: 10, opset_import: ["" : 20]>
h (float[rois,64,7,7] pooled) => (float[rois,7] class_logits, float[rois,28] box_deltas)
<float[1] val_0 = {2.0}>
{ val_1 = Add (pooled, val_0)
  class_logits = Relu (val_1)
  box_deltas = Neg (val_1) }
"""


def test_names_of_the_two_networks_do_not_clash(stages):
    model = join_networks(onnx.parser.parse_model(FEATURES), onnx.parser.parse_model(BOXES), stages)
    onnx.checker.check_model(model)
    names = [node.name for node in model.graph.node if node.domain == ""]
    assert names == [
        "graph/Relu",
        "graph/Neg",
        "graph/Neg_2",
        "graph/Add",
        "graph/Add_2",
        "graph/Relu_2",
        "graph/Neg_3",
    ]
    values = {tensor.name: tensor.float_data[0] for tensor in model.graph.initializer}
    assert values == {"val_0": 1, "val_0_2": 2}
    first, second = (node for node in model.graph.node if node.op_type == "Add")
    assert (list(first.input), list(second.input)) == (["images", "val_0"], ["pooled", "val_0_2"])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("Relu (images)", "other.Relu (images)", "other::Relu"),
        ('"" : 20]', '"" : 20, "x" : 1]', "x::f"),
    ],
)
def test_operators_that_are_not_of_onnx_are_refused(old, new, named, stages):
    features = onnx.parser.parse_model(FEATURES.replace(old, new))
    if named == "x::f":
        body = '<domain: "x", opset_import: ["" : 20]> f (a) => (b) {b = Neg(a)}'
        features.functions.append(onnx.parser.parse_function(body))
    with pytest.raises(ExportError, match=rf"operators that are not ONNX's own: {named} \(") as caught:
        join_networks(features, onnx.parser.parse_model(BOXES), stages)
    assert caught.value.hint
