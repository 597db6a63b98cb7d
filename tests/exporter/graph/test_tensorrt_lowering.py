"""Operators lowered to plugin nodes: connected as the kernels expect, with the rest of the graph unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.operator_forms import FORMS, attributes_of, shapes_of
from support.quantized import quantized
from support.simt import require_compiler, run_on_host
from support.stage_inputs import box_predictions, image_sizes, present_rois

from frcnn.errors import ExportError, KernelError
from frcnn.exporter.graph.nodes import int8_layers
from frcnn.exporter.graph.tensorrt_lowering import PLUGIN_DOMAIN, lower_to_plugins
from frcnn.plugins import DOMAIN, OPERATORS, VERSION, box_detections, multiscale_roi_align
from frcnn.plugins.box_detections.reference import box_detections as box_detections_reference
from frcnn.plugins.operator_kernels import kernels_for
from frcnn.plugins.tensorrt.plugins import plugins

WHERE = {"plugin_namespace": b"frcnn", "plugin_version": b"1"}


def model_of(operator: str, levels: int = 1, *functions: onnx.FunctionProto, **changes: Any) -> onnx.ModelProto:
    """Return a model of one operator node ``stage``, whose values have the names of its spec."""
    spec = OPERATORS[operator]
    inputs, outputs = list(spec.input_names(levels)), [tensor.name for tensor in spec.outputs]
    node = onnx.helper.make_node(operator, inputs, outputs, "stage", domain=DOMAIN, **attributes_of(operator, levels))
    for name, value in changes.items():
        if isinstance(value, list):
            node.ClearField(name)
            getattr(node, name).extend(value)
        else:
            setattr(node, name, value)
    ranks = [{name: len(shape) for name, shape in shapes_of(operator, levels).items()}]
    ranks += [{tensor.name: len(tensor.shape) for tensor in spec.outputs}]
    values = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * rank) for name, rank in of.items()]
        for of in ranks
    ]
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    graph = onnx.helper.make_graph([node], "one_operator", *values)
    return onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


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


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_operator_becomes_a_plugin_node_for_each_kernel_with_scratch_tensors_between(form):
    operator, levels = form
    model = model_of(operator, levels)
    model.graph.node[0].attribute.sort(key=lambda attribute: attribute.name)
    given = attributes(model.graph.node[0])
    lowered = lower_to_plugins(model)
    assert_values_are_made_before_they_are_used(lowered)
    kernels = kernels_for(operator, attributes_of(operator, levels))
    spec = OPERATORS[operator]
    theirs = {*spec.input_names(levels), *(tensor.name for tensor in spec.outputs)}
    for node, kernel in zip(lowered.graph.node, kernels, strict=True):
        assert (node.domain, node.op_type, node.name) == (PLUGIN_DOMAIN, kernel.plugin, f"stage/{kernel.plugin}")
        for names, tensors in ((node.input, kernel.inputs), (node.output, kernel.outputs)):
            formal = [tensor.name for tensor in tensors]
            assert list(names) == [name if name in theirs else f"stage/{name}" for name in formal]
        assert attributes(node) == given | WHERE
        assert [name for name in attributes(node) if name in given] == list(attributes_of(operator, levels))


def test_a_node_older_than_an_attribute_means_its_default():
    model, older = model_of("RegionProposals", 3), model_of("RegionProposals", 3)
    (strides,) = (attribute for attribute in model.graph.node[0].attribute if attribute.name == "strides")
    older.graph.node[0].attribute.remove(strides)
    del strides.floats[:]
    strides.floats.append(0.0)
    lowered = lower_to_plugins(older)
    assert lowered == lower_to_plugins(model)
    assert {"strides"} < attributes(lowered.graph.node[1]).keys()


def test_functions_and_domain_of_the_operators_are_dropped_and_the_model_is_valid():
    model = model_of("MultiscaleRoIAlign", 2, multiscale_roi_align.function(levels=2, aligned=False))
    text = model.SerializeToString()
    lowered = lower_to_plugins(model)
    assert model.SerializeToString() == text
    assert not lowered.functions
    assert {opset.domain: opset.version for opset in lowered.opset_import} == {"": 20, PLUGIN_DOMAIN: 1}
    onnx.checker.check_model(lowered, full_check=True)


def test_lowering_a_lowered_model_changes_nothing():
    lowered = lower_to_plugins(model_of("BoxDetections", 1, box_detections.function()))
    assert lower_to_plugins(lowered) == lowered


@pytest.mark.parametrize(("family", "levels"), [("vgg16", 1), ("resnet50_fpn", 5)])
def test_only_the_operators_of_a_whole_model_change(family, levels, exports):
    model = onnx.load(exports(family).path)
    lowered = lower_to_plugins(model)
    onnx.checker.check_model(lowered)
    assert_values_are_made_before_they_are_used(lowered)
    pooling = {"vgg16": "MultiscaleRoIPool1", "resnet50_fpn": "MultiscaleRoIAlign4"}[family]
    stages = [("RegionProposals", levels), ("BoxDetections", 1)]
    proposals, detections = ([k.plugin for k in kernels_for(name, attributes_of(name, n))] for name, n in stages)
    assert [node.op_type for node in plugin_nodes(lowered)] == [*proposals, pooling, *detections]
    names = [node.name for node in lowered.graph.node]
    assert len(names) == len(set(names))
    assert {name.rpartition("/")[0] for name in (node.name for node in plugin_nodes(lowered))} == {
        node.name for node in model.graph.node if node.domain == DOMAIN
    }

    others = [node for node in model.graph.node if node.domain != DOMAIN]
    assert [node for node in lowered.graph.node if node.domain != PLUGIN_DOMAIN] == others
    for part in ("input", "output", "initializer", "value_info"):
        assert getattr(lowered.graph, part) == getattr(model.graph, part)
    assert lowered.metadata_props == model.metadata_props
    assert lowered.ir_version == model.ir_version


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], type[Exception], str]] = {
    "an unknown operator": (
        lambda: model_of("BoxDetections", op_type="GroupedNMS"),
        ExportError,
        "stage is frcnn.GroupedNMS; operators that have plugins are RegionProposals, MultiscaleRoIAlign, "
        "MultiscaleRoIPool, BoxDetections (export the model again with this version of frcnn)",
    ),
    "more levels than there are kernels for": (
        lambda: model_of("MultiscaleRoIAlign", 9),
        KernelError,
        "spatial_scales must have 1 to 8 values, one per feature level, got 9",
    ),
    "an input too few": (
        lambda: model_of("MultiscaleRoIPool", 2, input=["rois", "feature_0"]),
        ExportError,
        "stage: MultiscaleRoIPool has the inputs rois, feature_0, feature_1, got rois, feature_0",
    ),
    "a missing attribute": (
        lambda: model_of("BoxDetections", attribute=[onnx.helper.make_attribute("min_size", 0.5)]),
        KernelError,
        "BoxDetections needs the attribute 'box_weights' (its attributes are box_weights, max_log_scale, "
        "score_threshold, iou_threshold, min_size, max_detections, element)",
    ),
    "an output too many": (
        lambda: model_of("MultiscaleRoIPool", output=["pooled", "levels"]),
        ExportError,
        "stage: MultiscaleRoIPool has the outputs pooled, got pooled, levels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_operator_node_is_refused(case):
    make, kind, message = REFUSED[case]
    with pytest.raises(kind) as caught:
        lower_to_plugins(make())
    assert str(caught.value) == message


@pytest.mark.slow
def test_the_kernels_of_the_plugin_nodes_compute_the_operator():
    require_compiler()
    rng = np.random.default_rng(5)
    sizes = image_sizes(rng, 2, (90, 120))
    logits, deltas = box_predictions(rng, 2 * 40, 5, score_threshold=0.05)
    inputs = (present_rois(rng, 2, 40, (90, 120)), sizes, logits, deltas)
    lowered = lower_to_plugins(model_of("BoxDetections"))
    values = dict(zip((value.name for value in lowered.graph.input), inputs, strict=True))
    table = {plugin.name: plugin for plugin in plugins()}
    for node in lowered.graph.node:
        plugin, given = table[node.op_type], attributes(node)
        (kernel,) = plugin.kernels({attribute.name: given[attribute.name] for attribute in plugin.attributes})
        read = {formal: values[name] for formal, name in zip(plugin.inputs, node.input, strict=True)}
        made = run_on_host([kernel], read)
        values |= {name: made[formal] for formal, name in zip(plugin.outputs, node.output, strict=True)}
    expected = box_detections_reference(*inputs, **attributes_of("BoxDetections", 1))
    assert int(expected.num_detections.min()) > 0
    for name in ("num_detections", "boxes", "labels"):
        assert torch.equal(values[name], getattr(expected, name)), name
    assert torch.allclose(values["scores"], expected.scores, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_plugins_of_an_int8_model_read_what_is_not_rounded(tiny_model):
    model = onnx.load(quantized(tiny_model, symmetric=True))
    (pooling,) = (node for node in model.graph.node if node.op_type == "MultiscaleRoIAlign")
    assert pooling.input[1] == "features_0_DequantizeLinear_Output"
    lowered = lower_to_plugins(model)
    assert_values_are_made_before_they_are_used(lowered)
    read = {name for node in plugin_nodes(lowered) for name in node.input}
    assert {"images", "features_0"} < read and not any("Linear" in name for name in read)
    assert int8_layers(lowered.graph) == int8_layers(model.graph) != frozenset()
