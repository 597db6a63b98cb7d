"""Every face of an operator agrees with its spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import onnx
import onnx.inliner
import pytest
from support.operators import operator_model, pooling_attributes
from support.stage_inputs import anchors_of

from frcnn.plugins import (
    DOMAIN,
    OPERATORS,
    OperatorSpec,
    box_detections,
    multiscale_roi_align,
    multiscale_roi_pool,
    region_proposals,
)
from frcnn.plugins.box_detections.reference import PaddedDetections
from frcnn.plugins.box_detections.reference import box_detections as reference_detections
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as reference_align
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as reference_pool
from frcnn.plugins.operator_kernels import kernels_for, wiring_of
from frcnn.plugins.region_proposals.reference import region_proposals as reference_proposals

Body = Callable[[int], onnx.FunctionProto]
BODIES: dict[str, Body] = {
    "RegionProposals": lambda levels: region_proposals.function(levels=levels, anchors_per_cell=[3] * levels),
    "MultiscaleRoIAlign": lambda levels: multiscale_roi_align.function(levels=levels, aligned=False),
    "MultiscaleRoIPool": lambda levels: multiscale_roi_pool.function(levels=levels, output_size=(7, 5)),
    "BoxDetections": lambda levels: box_detections.function(),
}
REFERENCES: dict[str, Callable[..., Any]] = {
    "RegionProposals": reference_proposals,
    "MultiscaleRoIAlign": reference_align,
    "MultiscaleRoIPool": reference_pool,
    "BoxDetections": reference_detections,
}
ALL = [(name, levels) for name in BODIES for levels in ((1,) if name == "BoxDetections" else (1, 2, 4, 5))]
PLURALS = {"feature": "features"}  # of variadic inputs whose name is not a plural
# Written into the body: what the standard operator takes as text or a list, and what needs no node where it is 0.
WRITTEN_INTO_BODY = {"RegionProposals": {"strides"}, "MultiscaleRoIAlign": {"aligned"}}


def attributes_for(spec: OperatorSpec, levels: int) -> dict[str, Any]:
    values = pooling_attributes(levels, (7, 5), sampling_ratio=2, aligned=0) | {
        "anchors": anchors_of([3] * levels),
        "strides": [0.0] * levels,
        "box_weights": [10.0, 10.0, 5.0, 5.0],
        "max_log_scale": 4.0,
        "pre_nms_top_n": 100,
        "post_nms_top_n": 50,
        "iou_threshold": 0.5,
        "score_threshold": 0.25,
        "min_size": 1.0,
        "max_detections": 20,
    }
    return {attribute.name: values[attribute.name] for attribute in spec.attributes}


def test_operators_are_listed_by_their_names():
    assert {name: spec.name for name, spec in OPERATORS.items()} == {name: name for name in BODIES}
    assert OPERATORS["BoxDetections"].qualified_name == "frcnn::BoxDetections"


def test_a_variadic_input_has_one_name_a_level():
    names = OPERATORS["MultiscaleRoIAlign"].input_names(3)
    assert names == ("rois", "feature_0", "feature_1", "feature_2")
    names = OPERATORS["RegionProposals"].input_names(2)
    assert names == ("image_sizes", "images", "objectness_0", "objectness_1", "deltas_0", "deltas_1")


@pytest.mark.parametrize(("name", "levels"), ALL)
def test_a_body_has_the_interface_of_its_spec_and_standard_operators_only(name, levels):
    spec, body = OPERATORS[name], BODIES[name](levels)
    assert (body.domain, body.name) == (DOMAIN, name)
    assert tuple(body.input) == spec.input_names(levels)
    assert tuple(body.output) == tuple(tensor.name for tensor in spec.outputs)
    assert tuple(body.attribute) == tuple(attribute.name for attribute in spec.attributes)
    assert [(opset.domain, opset.version) for opset in body.opset_import] == [("", 20)]
    assert {node.domain for node in body.node} == {""}
    assert all(onnx.defs.has(node.op_type, 20) for node in body.node)
    kinds = {"int": onnx.AttributeProto.INT, "float": onnx.AttributeProto.FLOAT, "floats": onnx.AttributeProto.FLOATS}
    used = {a.ref_attr_name: a.type for node in body.node for a in node.attribute if a.ref_attr_name}
    baked = WRITTEN_INTO_BODY.get(name, set())
    assert used == {a.name: kinds[a.kind] for a in spec.attributes if a.name not in baked}


@pytest.mark.parametrize(("name", "levels"), ALL)
def test_every_value_of_a_body_is_used(name, levels):
    body = BODIES[name](levels)
    used = {value for node in body.node for value in node.input} | set(body.output)
    unused = [node.output[0] for node in body.node if not used & set(node.output)]
    assert unused == []
    assert set(body.input) <= used


@pytest.mark.parametrize("features", ["FLOAT", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize(("name", "levels"), ALL)
def test_a_model_of_a_node_and_its_body_passes_the_checker_whole_and_inlined(name, levels, features):
    spec, element = OPERATORS[name], getattr(onnx.TensorProto, features)
    attributes = attributes_for(spec, levels)
    model = operator_model(spec, BODIES[name](levels), levels=levels, features=element, attributes=attributes)
    assert [node.op_type for node in model.graph.node] == [name]
    onnx.checker.check_model(onnx.inliner.inline_local_functions(model), full_check=True)


@pytest.mark.parametrize("name", list(BODIES))
def test_a_reference_takes_the_inputs_and_attributes_of_its_spec(name):
    spec = OPERATORS[name]
    parameters = inspect.signature(REFERENCES[name]).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert positional == [PLURALS.get(tensor.name, tensor.name) for tensor in spec.inputs]
    assert keywords == [attribute.name for attribute in spec.attributes]


def test_the_outputs_of_box_detections_have_the_names_of_its_spec():
    assert PaddedDetections._fields == tuple(tensor.name for tensor in OPERATORS["BoxDetections"].outputs)


@pytest.mark.parametrize("element", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("name", "levels"), ALL)
def test_kernels_have_the_inputs_and_outputs_of_their_spec(name, levels, element):
    spec = OPERATORS[name]
    options = {"channels": 256} if name.startswith("Multiscale") else {}
    wiring = wiring_of(name, kernels_for(name, {**attributes_for(spec, levels), "element": element, **options}))
    formal = [tensor for tensor in spec.inputs for _ in range(levels if tensor.variadic else 1)]

    def described(names, tensors):
        elements = (element if tensor.element == "features" else tensor.element for tensor in tensors)
        return [(name, kind, len(tensor.shape)) for name, kind, tensor in zip(names, elements, tensors, strict=True)]

    assert described([t.name for t in wiring.inputs], wiring.inputs) == described(spec.input_names(levels), formal)
    assert described([t.name for t in wiring.outputs], wiring.outputs) == described(
        [tensor.name for tensor in spec.outputs], spec.outputs
    )


@pytest.mark.parametrize(("name", "pooling"), [("MultiscaleRoIAlign", "RoiAlign"), ("MultiscaleRoIPool", "MaxRoiPool")])
def test_each_map_is_pooled_once_and_only_from_its_own_rois(name, pooling):
    nodes = [node for node in BODIES[name](4).node if node.op_type == pooling]
    assert [node.input[0] for node in nodes] == [f"map_{level}" for level in range(4)]
    own_rois = {"RoiAlign": "rois_of_{}", "MaxRoiPool": "image_rois_{}"}[pooling]
    assert [node.input[1] for node in nodes] == [own_rois.format(level) for level in range(4)]
