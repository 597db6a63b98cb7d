"""The graph in ``model.onnx``: operators with their function bodies, element types, no trace of the system."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
import onnx
import onnx.parser
import pytest
import torch
from support.engine_files import source_manifest

import frcnn
from frcnn.errors import ExportError
from frcnn.exporter.graph.finalize import finalize_graph
from frcnn.plugins import DOMAIN, OPERATORS
from frcnn.spec import MANIFEST_KEY, Manifest, ModelSpec

FLOAT, HALF, BF16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
INT32 = onnx.TensorProto.INT32

POOLING = {"vgg16": ("MultiscaleRoIPool", 1), "resnet18_fpn_max": ("MultiscaleRoIPool", 3)}
POOLING |= {"resnet50_fpn": ("MultiscaleRoIAlign", 4), "swin_fpn": ("MultiscaleRoIAlign", 2)}


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return types | {t.name: t.data_type for t in graph.initializer}


@pytest.mark.parametrize("family", POOLING)
def test_a_graph_has_two_nms_and_one_pooling_node_with_their_functions(family, exports):
    model = onnx.load(exports(family).path)
    pooling, levels = POOLING[family]
    ours = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    assert ours == {"GroupedNMS": 2, pooling: 1}
    assert {node.domain for node in model.graph.node} == {"", DOMAIN}
    assert sorted((f.domain, f.name) for f in model.functions) == sorted((DOMAIN, name) for name in ours)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20, DOMAIN: 1}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            spec = OPERATORS[node.op_type]
            assert len(node.input) == len(spec.input_names(levels))
            assert {a.name for a in node.attribute} == {a.name for a in spec.attributes}


def test_attributes_are_those_of_the_model(exports):
    export = exports("resnet18_fpn_max")
    pooler = export.spec.roi_heads.pooler
    nodes = [node for node in onnx.load(export.path).graph.node if node.domain == DOMAIN]
    thresholds = [a.f for node in nodes for a in node.attribute if a.name == "iou_threshold"]
    assert thresholds == pytest.approx([0.7, 0.3], rel=1e-6)
    assert thresholds[0] <= 0.7 and thresholds[1] <= 0.3
    (pooling,) = (node for node in nodes if node.op_type == "MultiscaleRoIPool")
    values = {a.name: onnx.helper.get_attribute_value(a) for a in pooling.attribute}
    assert (values["output_height"], values["output_width"]) == (5, 6)
    assert values["spatial_scales"] == list(pooler.spatial_scales) == [1 / 4, 1 / 8, 1 / 16]
    assert values["level_thresholds"] == list(pooler.level_thresholds)


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
    for name in ("Softmax", "Exp", "Sigmoid"):
        assert inputs[name] == {(FLOAT,)}, name
    assert {row[0] for row in inputs["TopK"]} == {FLOAT}
    assert inputs["GroupedNMS"] == {(FLOAT, FLOAT)}
    pooling, levels = POOLING.get(family, ("MultiscaleRoIAlign", 2))
    assert inputs[pooling] == {(FLOAT, *[element] * levels)}
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


@pytest.mark.parametrize("family", POOLING)
def test_a_file_holds_no_trace_of_the_system(family, exports):
    export = exports(family)
    content = export.path.read_bytes()
    folders = {Path(frcnn.__file__).parents[1], Path(torch.__file__).parent, Path(tempfile.gettempdir()), export.path}
    for folder in (*folders, Path(sys.prefix), Path.home()):
        if len(str(folder)) > 4:
            assert str(folder).encode() not in content, folder
    assert not re.search(rb"\w\.py\b", content)
    model = onnx.load(export.path)
    assert [entry.key for entry in model.metadata_props] == [MANIFEST_KEY]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def manifest(spec: ModelSpec) -> Manifest:
    return msgspec.structs.replace(source_manifest(precision="fp32"), model=spec, versions={"frcnn": "1.2.3"})


SMALL = """
<ir_version: 10, opset_import: ["" : 20, "frcnn" : 1], doc_string: "secret">
exported (float[G,M,4] boxes, float[G,M] scores) => (float[G,M] twice)
{{ once = frcnn.GroupedNMS <iou_threshold = 0.5> (boxes, scores)
   twice = frcnn.{second} <iou_threshold = 0.5> (boxes, once){pooling} }}
"""
ALIGN = """
   first = Constant <value_ints: ints = [0]> ()
   rois = Unsqueeze (boxes, first)
   pooled = frcnn.MultiscaleRoIAlign <output_height = 7, output_width = 7, spatial_scales = [0.25],
     level_thresholds = [1.0], sampling_ratio = 2, aligned = 0> (boxes, rois)"""


def small_graph(second: str = "GroupedNMS", pooling: str = ALIGN) -> onnx.ModelProto:
    return onnx.parser.parse_model(SMALL.format(second=second, pooling=pooling))


@pytest.fixture
def spec(exports):
    return exports.spec("swin_fpn")


def test_stack_traces_are_removed_and_the_manifest_is_added(spec):
    model = small_graph()
    model.metadata_props.add(key="pkg.torch.onnx", value="File somewhere.py, line 3")
    for item in (model.graph, *model.graph.node, *model.graph.input):
        item.doc_string = "File somewhere.py, line 3"
        item.metadata_props.add(key="trace", value="File somewhere.py, line 3")
    finalized = finalize_graph(model, spec, manifest(spec))
    assert b"somewhere" not in finalized.SerializeToString() and b"secret" not in finalized.SerializeToString()
    assert (finalized.producer_name, finalized.producer_version) == ("frcnn", "1.2.3")
    (entry,) = finalized.metadata_props
    assert Manifest.from_json(entry.value, source="test") == manifest(spec)
    assert [f.name for f in finalized.functions] == ["GroupedNMS", "MultiscaleRoIAlign"]


@pytest.mark.parametrize(
    ("second", "pooling", "got"),
    [
        ("GroupedNMS", "", r"\['GroupedNMS', 'GroupedNMS'\]"),
        ("SoftNMS", ALIGN, r"\['GroupedNMS', 'SoftNMS', 'MultiscaleRoIAlign'\]"),
    ],
)
def test_a_graph_without_exactly_three_custom_nodes_is_refused(second, pooling, got, spec):
    with pytest.raises(ExportError, match=rf"expected two GroupedNMS nodes and one RoI pooling node, got {got}"):
        finalize_graph(small_graph(second, pooling), spec, manifest(spec))


def test_a_graph_with_other_functions_is_refused(spec):
    model = small_graph()
    model.functions.append(
        onnx.parser.parse_function('<domain: "x", opset_import: ["" : 20]> f (a) => (b) {b = Neg(a)}')
    )
    with pytest.raises(ExportError, match=r"unexpected functions in the exported graph: \['f'\]"):
        finalize_graph(model, spec, manifest(spec))


def test_an_invalid_graph_is_refused(spec):
    model = small_graph()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ExportError, match=r"not valid ONNX: .*nowhere"):
        finalize_graph(model, spec, manifest(spec))
