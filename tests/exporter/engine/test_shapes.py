"""Shapes and memory of the tensors between steps, and what the operators' kernels cannot take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from frcnn.errors import KernelError
from frcnn.exporter.engine.profiles import make_profiles
from frcnn.exporter.engine.shapes import initializer_bytes, input_shapes, memory_needs, trace, trace_profile
from frcnn.exporter.engine.steps import make_steps
from frcnn.exporter.graph.split import split
from frcnn.spec.engine import OUTPUTS, EngineStep, Target

ELEMENT_BYTES = {"float32": 4, "float16": 2, "int32": 4}


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
@pytest.mark.parametrize(
    ("family", "precision"),
    [("vgg16", "fp16"), ("resnet18_fpn_max", "fp32"), ("resnet50_c4", "fp16"), ("swin_fpn", "fp32")],
)
def test_shapes_equal_those_of_onnxruntime(family, precision, target: Target, exports):
    """Against ONNX Runtime running the whole graph, with what flows between the steps among its outputs."""
    model = onnx.load(exports(family, precision).path)
    steps = make_steps(split(model), target)
    between = [name for name in steps.tensors if name not in ("images", "image_sizes", *OUTPUTS)]
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(known[name] for name in between)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kind = np.float16 if precision == "fp16" else np.float32
    for batch, canvas in ((2, (96, 160)), (1, (224, 64))):
        feeds = {"images": np.zeros((batch, 3, *canvas), kind), "image_sizes": np.array([canvas] * batch, np.int32)}
        names = [*between, *OUTPUTS]
        found = dict(zip(names, (value.shape for value in session.run(names, feeds)), strict=True))
        traced = trace(steps, batch, canvas).shapes
        assert {name: traced[name] for name in names} == found
        assert traced["images"] == (batch, 3, *canvas)


def test_engines_know_nhwc_tensors_by_their_memory(exports):
    export = exports("vgg16", "fp16")
    steps = make_steps(split(onnx.load(export.path)), "onnxruntime")
    (profile,) = make_profiles(export.manifest, batch="1:2:4", size="64x64:160x224:288x288")
    traces = trace_profile(steps, profile)
    first, _, _, second, _ = steps.steps
    assert isinstance(first, EngineStep)
    assert isinstance(second, EngineStep)
    assert input_shapes(steps, first, traces) == {
        "images": ((1, 3, 64, 64), (2, 3, 160, 224), (4, 3, 288, 288)),
    }
    assert steps.tensors["pooled"].layout == "nhwc"
    assert input_shapes(steps, second, traces) == {"pooled": ((100, 7, 7, 64), (200, 7, 7, 64), (400, 7, 7, 64))}


def test_memory_needs_are_those_of_the_largest_shapes(exports):
    export = exports("vgg16", "fp16")
    steps = make_steps(split(onnx.load(export.path)), "tensorrt-rtx")
    profiles = make_profiles(export.manifest, batch="1:1:4", size="64x64,160x224,32x32:64x64:96x96")
    traces = [trace_profile(steps, profile) for profile in profiles]
    needs = memory_needs(steps, traces, [10, 20])

    largest = traces[1][2]
    assert largest.shapes["images"] == (4, 3, 160, 224)
    assert needs.tensors_bytes == sum(
        math.ceil(math.prod(largest.shapes[name]) * ELEMENT_BYTES[tensor.element] / 256) * 256
        for name, tensor in steps.tensors.items()
    )
    assert needs.workspace_bytes == max(largest.scratch_bytes.values()) > 0
    assert set(largest.scratch_bytes) == {step.node for step in steps.operators}
    assert needs.weights_bytes == 30
    assert memory_needs(steps, traces[::2], []).tensors_bytes < needs.tensors_bytes


def test_the_weights_are_those_of_both_networks(exports):
    model = onnx.load(exports("vgg16").path)
    networks = split(model)
    weights = [initializer_bytes(part) for part in (networks.features, networks.boxes)]
    assert sum(weights) == initializer_bytes(model)
    assert min(weights) > 100_000


def with_attributes(model: onnx.ModelProto, operator: str, **changes: Any) -> onnx.ModelProto:
    """Change attributes of an operator's node, in place."""
    (node,) = (node for node in model.graph.node if node.op_type == operator)
    kept = [attribute for attribute in node.attribute if attribute.name not in changes]
    made = [onnx.helper.make_attribute(name, value) for name, value in changes.items()]
    del node.attribute[:]
    node.attribute.extend([*kept, *made])
    return model


@pytest.mark.parametrize(
    ("operator", "changes", "message"),
    [
        ("RegionProposals", {"pre_nms_top_n": 6145}, "pre_nms_top_n must be from 1 to 6144, got 6145"),
        ("RegionProposals", {"anchors": [0.0, 0, 0, 1, 1] * 1025}, "anchors must be 1 to 1024 rows"),
        ("RegionProposals", {"anchors": [0.0, 0, 0, 1, 1, 1, 0, 0, 1, 1]}, "deltas_1, got 4"),
        ("RegionProposals", {"anchors": [0.0, 0, 0, 1, 1]}, "objectness_0"),
        ("RegionProposals", {"pre_nms_top_n": 4096, "post_nms_top_n": 4097}, None),
        ("BoxDetections", {"max_detections": 4097}, "max_detections must be from 1 to 4096, got 4097"),
        ("MultiscaleRoIPool", {"output_height": 70, "output_width": 70}, "output_height x output_width must be 1 to"),
        (
            "MultiscaleRoIPool",
            {"spatial_scales": [1.0] * 9, "level_thresholds": [1.0] * 8},
            "spatial_scales must have 1 to 8",
        ),
    ],
)
def test_what_no_kernel_takes_is_refused(operator, changes, message, exports):
    model = with_attributes(onnx.load(exports("vgg16").path), operator, **changes)
    if message is None:  # one level of 4096 candidates has no more proposals than kernels take
        assert trace(make_steps(split(model), "tensorrt-rtx"), 1, (64, 64)).shapes["rois"] == (1, 4096, 4)
        return
    with pytest.raises(KernelError) as caught:
        trace(make_steps(split(model), "tensorrt-rtx"), 1, (64, 64))
    assert message in caught.value.message
