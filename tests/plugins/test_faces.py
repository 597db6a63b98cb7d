"""Every face of an operator agrees with its spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from support.operators import operator_model, pooling_attributes

from frcnn.plugins import DOMAIN, OPERATORS, OperatorSpec, grouped_nms, multiscale_roi_align, multiscale_roi_pool
from frcnn.plugins.grouped_nms.reference import grouped_nms as reference_nms
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as reference_align
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as reference_pool

Body = Callable[[int], onnx.FunctionProto]
BODIES: dict[str, Body] = {
    "GroupedNMS": lambda levels: grouped_nms.function(),
    "MultiscaleRoIAlign": lambda levels: multiscale_roi_align.function(levels=levels, aligned=False),
    "MultiscaleRoIPool": lambda levels: multiscale_roi_pool.function(levels=levels, output_size=(7, 5)),
}
REFERENCES: dict[str, Callable[..., Any]] = {
    "GroupedNMS": reference_nms,
    "MultiscaleRoIAlign": reference_align,
    "MultiscaleRoIPool": reference_pool,
}
ALL = [(name, levels) for name in BODIES for levels in ((1,) if name == "GroupedNMS" else (1, 2, 4, 5))]
# Written into the body, because the standard operator takes it as text or a list.
WRITTEN_INTO_BODY = {"MultiscaleRoIAlign": {"aligned"}}


def attributes_for(spec: OperatorSpec, levels: int) -> dict[str, Any]:
    values = pooling_attributes(levels, (7, 5), iou_threshold=0.5, sampling_ratio=2, aligned=0)
    return {attribute.name: values[attribute.name] for attribute in spec.attributes}


def test_operators_are_listed_by_their_names():
    assert {name: spec.name for name, spec in OPERATORS.items()} == {name: name for name in BODIES}
    assert OPERATORS["GroupedNMS"].qualified_name == "frcnn::GroupedNMS"


def test_a_variadic_input_has_one_name_a_level():
    names = OPERATORS["MultiscaleRoIAlign"].input_names(3)
    assert names == ("rois", "feature_0", "feature_1", "feature_2")


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
    # a model with the node and its body passes the ONNX checker
    model = operator_model(spec, body, levels=levels, attributes=attributes_for(spec, levels))
    assert [node.op_type for node in model.graph.node] == [name]


@pytest.mark.parametrize("name", list(BODIES))
def test_a_reference_takes_the_inputs_and_attributes_of_its_spec(name):
    spec = OPERATORS[name]
    parameters = inspect.signature(REFERENCES[name]).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert positional == [tensor.name + "s" * tensor.variadic for tensor in spec.inputs]
    assert keywords == [attribute.name for attribute in spec.attributes]


@pytest.mark.parametrize(("name", "pooling"), [("MultiscaleRoIAlign", "RoiAlign"), ("MultiscaleRoIPool", "MaxRoiPool")])
def test_each_map_is_pooled_once_and_only_from_its_own_rois(name, pooling):
    nodes = [node for node in BODIES[name](4).node if node.op_type == pooling]
    assert [node.input[0] for node in nodes] == [f"map_{level}" for level in range(4)]
    own_rois = {"RoiAlign": "rois_of_{}", "MaxRoiPool": "image_rois_{}"}[pooling]
    assert [node.input[1] for node in nodes] == [own_rois.format(level) for level in range(4)]
