"""Operators lowered to plugin nodes: connected as the kernels expect, with the rest of the graph unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.operators import operator_model, pooling_attributes
from support.simt import require_compiler, run_on_host

from frcnn.errors import ExportError
from frcnn.exporter.graph.tensorrt_lowering import PLUGIN_DOMAIN, lower_to_plugins
from frcnn.plugins import DOMAIN, VERSION, grouped_nms, multiscale_roi_align
from frcnn.plugins.grouped_nms.kernel import kernels as nms_kernels
from frcnn.plugins.grouped_nms.reference import grouped_nms as grouped_nms_reference
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.tensorrt.plugins import PLUGINS, Variant


def nms_model() -> onnx.ModelProto:
    return operator_model(grouped_nms.SPEC, grouped_nms.function(), attributes={"iou_threshold": 0.5})


def align_model(levels: int) -> onnx.ModelProto:
    return operator_model(
        multiscale_roi_align.SPEC,
        multiscale_roi_align.function(levels=levels, aligned=False),
        levels=levels,
        attributes=pooling_attributes(levels, (7, 5), sampling_ratio=2, aligned=0),
    )


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def plugin_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == PLUGIN_DOMAIN]


def assert_values_are_made_before_they_are_used(model: onnx.ModelProto) -> None:
    graph = model.graph
    made = ["", *(value.name for value in graph.input), *(value.name for value in graph.initializer)]
    for node in graph.node:
        assert set(node.input) <= set(made), node.name
        made += [name for name in node.output if name]
    assert len(made) == len(set(made))
    assert {value.name for value in graph.output} <= set(made)


def test_nms_becomes_a_mask_and_a_resolve_node():
    model = nms_model()
    model.graph.node[0].name = "rpn/GroupedNMS"
    mask, resolve = lower_to_plugins(model).graph.node
    kernels = nms_kernels(iou_threshold=0.5)
    assert [mask.op_type, resolve.op_type] == [kernel.plugin for kernel in kernels]
    assert list(mask.input) == [tensor.name for tensor in kernels[0].inputs] == ["boxes", "scores"]
    assert list(mask.output) == ["rpn/GroupedNMS/order", "rpn/GroupedNMS/overlaps"]
    assert list(resolve.input) == ["scores", "rpn/GroupedNMS/order", "rpn/GroupedNMS/overlaps"]
    assert [name.split("/")[-1] for name in resolve.input] == [tensor.name for tensor in kernels[1].inputs]
    assert list(resolve.output) == ["kept_scores"]
    assert [mask.name, resolve.name] == ["rpn/GroupedNMS/GroupedNMSMask", "rpn/GroupedNMS/GroupedNMSResolve"]
    where = {"plugin_namespace": b"frcnn", "plugin_version": b"1"}
    assert attributes(mask) == where | {"iou_threshold": 0.5}
    assert attributes(resolve) == where


@pytest.mark.parametrize("levels", [1, 4, 5])
def test_pooling_becomes_the_plugin_of_its_number_of_levels(levels):
    model = align_model(levels)
    before = attributes(model.graph.node[0])
    (node,) = lower_to_plugins(model).graph.node
    assert node.op_type == f"MultiscaleRoIAlign{levels}"
    (kernel,) = align_kernels(**before)
    assert kernel.plugin == node.op_type
    assert list(node.input) == [tensor.name for tensor in kernel.inputs]
    assert list(node.output) == [tensor.name for tensor in kernel.outputs]
    assert attributes(node) == before | {"plugin_namespace": b"frcnn", "plugin_version": b"1"}


def test_functions_and_domain_are_dropped_and_the_model_is_valid():
    model = align_model(2)
    text = model.SerializeToString()
    lowered = lower_to_plugins(model)
    assert model.SerializeToString() == text
    assert not lowered.functions
    assert {opset.domain: opset.version for opset in lowered.opset_import} == {"": 20, PLUGIN_DOMAIN: 1}
    onnx.checker.check_model(lowered, full_check=True)


def test_lowering_a_lowered_model_changes_nothing():
    lowered = lower_to_plugins(nms_model())
    assert lower_to_plugins(lowered) == lowered


@pytest.mark.parametrize("family", ["vgg16", "resnet50_fpn"])
def test_only_the_operators_of_a_whole_model_change(family, exports):
    model = onnx.load(exports(family).path)
    lowered = lower_to_plugins(model)
    onnx.checker.check_model(lowered)
    assert_values_are_made_before_they_are_used(lowered)
    pooling = {"vgg16": "MultiscaleRoIPool1", "resnet50_fpn": "MultiscaleRoIAlign4"}[family]
    nms = ["GroupedNMSMask", "GroupedNMSResolve"]
    assert [node.op_type for node in plugin_nodes(lowered)] == [*nms, pooling, *nms]
    names = [node.name for node in lowered.graph.node]
    assert len(names) == len(set(names))

    others = [node for node in model.graph.node if node.domain != DOMAIN]
    assert [node for node in lowered.graph.node if node.domain != PLUGIN_DOMAIN] == others
    for part in ("input", "output", "initializer", "value_info"):
        assert getattr(lowered.graph, part) == getattr(model.graph, part)
    assert lowered.metadata_props == model.metadata_props
    assert lowered.ir_version == model.ir_version


def two_nms(name: str) -> onnx.ModelProto:
    model = nms_model()
    graph = model.graph
    graph.node[0].name = name
    graph.node.add().CopyFrom(graph.node[0])
    graph.node[0].output[0] = "first"
    graph.node[1].input[1] = "first"
    return model


@pytest.mark.parametrize("name", ["", "both"])
def test_names_are_unique_even_if_those_of_the_nodes_are_not(name):
    lowered = lower_to_plugins(two_nms(name))
    onnx.checker.check_model(lowered)
    assert_values_are_made_before_they_are_used(lowered)
    names = [node.name for node in lowered.graph.node]
    assert len(set(names)) == 4
    first, second = (lowered.graph.node[i] for i in (0, 2))
    assert not set(first.output) & set(second.output)


def test_a_new_name_is_not_one_in_use():
    model = nms_model()
    model.graph.node[0].name = "nms"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int32), "nms/order"))
    mask, _ = lower_to_plugins(model).graph.node
    assert list(mask.output) == ["nms/order_2", "nms/overlaps"]


def in_a_branch() -> onnx.ModelProto:
    model = nms_model()
    branch = onnx.GraphProto(name="branch", node=model.graph.node, output=model.graph.output)
    condition = onnx.helper.make_node("If", ["yes"], ["kept_scores"], then_branch=branch, else_branch=branch)
    del model.graph.node[:]
    model.graph.node.append(condition)
    return model


def test_an_operator_in_a_function_is_lowered_too():
    model = nms_model()
    expected = [node.op_type for node in lower_to_plugins(model).graph.node]
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    inner = onnx.helper.make_node("GroupedNMS", ["b", "s"], ["k"], name="inner", domain=DOMAIN, iou_threshold=0.5)
    model.functions.append(onnx.helper.make_function("other", "Wrapped", ["b", "s"], ["k"], [inner], opsets))
    model.opset_import.append(onnx.helper.make_opsetid("other", 1))
    call = onnx.helper.make_node("Wrapped", ["boxes", "scores"], ["kept_scores"], domain="other")
    del model.graph.node[:]
    model.graph.node.append(call)
    lowered = lower_to_plugins(model)
    assert not lowered.functions
    assert [node.op_type for node in lowered.graph.node] == expected


def changed(levels: int = 0, **fields: Any) -> onnx.ModelProto:
    model = align_model(levels) if levels else nms_model()
    node = model.graph.node[0]
    for name, value in fields.items():
        if isinstance(value, list):
            node.ClearField(name)
            getattr(node, name).extend(value)
        else:
            setattr(node, name, value)
    return model


REFUSED = {
    "an unknown operator": (
        lambda: changed(name="n", op_type="SoftNMS"),
        "node 'n' is frcnn.SoftNMS; operators that have a plugin are GroupedNMS, MultiscaleRoIAlign, MultiscaleRoIPool",
    ),
    "more levels than there are plugins for": (
        lambda: changed(levels=2, input=["rois", *"abcdefghi"]),
        "node 'pooled': MultiscaleRoIAlign has plugins for 2 or 3 or 4 or 5 or 6 or 7 or 8 or 9 inputs, got 10",
    ),
    "an input too few": (
        lambda: changed(input=["boxes"]),
        "node 'kept_scores': GroupedNMS has plugins for 2 inputs, got 1",
    ),
    "a missing attribute": (
        lambda: changed(attribute=[]),
        "node 'kept_scores': GroupedNMS has the attributes iou_threshold, got none",
    ),
    "an attribute of another operator": (
        lambda: changed(attribute=[onnx.helper.make_attribute("score_threshold", 0.5)]),
        "node 'kept_scores': GroupedNMS has the attributes iou_threshold, got score_threshold",
    ),
    "an output too many": (
        lambda: changed(output=["kept_scores", "order"]),
        "node 'kept_scores': GroupedNMS has the outputs kept_scores, got kept_scores, order",
    ),
    "a node in a branch": (in_a_branch, "node 'kept_scores' is in a subgraph; expected it in the main graph"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_operator_node_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ExportError) as caught:
        lower_to_plugins(make())
    assert caught.value.message == message


@pytest.mark.slow
def test_the_kernels_of_the_plugin_nodes_compute_the_operator():
    require_compiler()
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 60, (3, 70, 2)).astype(np.float32)
    size = rng.uniform(1, 40, (3, 70, 2)).astype(np.float32)
    boxes = torch.from_numpy(np.concatenate([corner, corner + size], axis=-1))
    scores = torch.from_numpy(rng.uniform(-0.3, 1, (3, 70)).astype(np.float32))
    values = {"boxes": boxes, "scores": scores}
    table = {plugin.name: plugin for plugin in PLUGINS}
    for node in lower_to_plugins(nms_model()).graph.node:
        plugin, given = table[node.op_type], attributes(node)
        kernel = plugin.make(Variant(), {attribute.name: given[attribute.name] for attribute in plugin.attributes})
        inputs = {formal: values[name] for formal, name in zip(plugin.inputs, node.input, strict=True)}
        outputs = run_on_host([kernel], inputs)
        values |= {name: outputs[formal] for formal, name in zip(plugin.outputs, node.output, strict=True)}
    expected = grouped_nms_reference(boxes, scores, iou_threshold=0.5)
    assert 0 < (expected >= 0).sum() < (scores >= 0).sum()
    assert torch.equal(values["kept_scores"], expected)
