"""bf16: valid ONNX with its function bodies, built by TensorRT-RTX, and close to float32 in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support.exports import detections
from support.images import SHAPES, network_input
from support.rtx_network import parse_by_rtx
from torch import Tensor

from frcnn.benchmarks.parity.matching import match
from frcnn.exporter.graph.split import split
from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.plugins import DOMAIN, VERSION, box_detections, multiscale_roi_align, multiscale_roi_pool, region_proposals
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as reference_roi_align
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as reference_roi_pool
from frcnn.spec import MANIFEST_KEY, Manifest

OPSET = 22
FAMILIES = ("vgg16", "mobilenet_v3_large_fpn")
FLOAT, BF16 = TensorProto.FLOAT, TensorProto.BFLOAT16
SCALES = [0.25, 0.125]
THRESHOLDS = [20.0]
ROIS = [
    [[0.0, 0.0, 15.0, 18.0], [3.5, 2.25, 40.0, 31.0], [0.0, 0.0, -1.0, -1.0]],
    [[10.0, 5.0, 11.0, 9.0], [0.0, 0.0, -1.0, -1.0], [1.0, 1.0, 63.0, 47.0]],
]


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_functions_and_manifest_have_one_opset(family, exports):
    """Conv takes bfloat16 from opset 22 on, and a model may not mix two opsets; the full check infers every type."""
    export = exports(family, "bf16")
    model = onnx.load(export.path)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, DOMAIN: VERSION}
    assert {entry.version for body in model.functions for entry in body.opset_import if not entry.domain} == {OPSET}
    (entry,) = model.metadata_props
    carried = Manifest.from_json(entry.value, source="model.onnx")
    assert (entry.key, carried) == (MANIFEST_KEY, export.manifest)
    assert (carried.precision, carried.opset) == ("bf16", OPSET)
    onnx.checker.check_model(model, full_check=True)


BODIES = {
    "RegionProposals": lambda: region_proposals.function(levels=2, anchors_per_cell=(3, 3)),
    "BoxDetections": box_detections.function,
    "MultiscaleRoIAlign": lambda: multiscale_roi_align.function(levels=2, aligned=False),
    "MultiscaleRoIPool": lambda: multiscale_roi_pool.function(levels=2, output_size=(3, 4)),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_operators_of_the_functions_differ_between_opsets_in_types_only(name):
    body = BODIES[name]()
    (written,) = (entry.version for entry in body.opset_import)
    for operator in {node.op_type for node in body.node}:
        old, new = (onnx.defs.get_schema(operator, version) for version in (written, OPSET))
        assert [(i.name, i.option) for i in old.inputs] == [(i.name, i.option) for i in new.inputs], operator
        assert [o.name for o in old.outputs] == [o.name for o in new.outputs], operator
        for attribute, meaning in old.attributes.items():
            assert new.attributes[attribute].default_value == meaning.default_value, (operator, attribute)


def run_body(body: onnx.FunctionProto, attributes: str, maps: list[Tensor]) -> np.ndarray[Any, Any]:
    """Run a pooling body on bfloat16 maps in ONNX Runtime: the body itself computes in float32, so the CPU can.

    In the opset that it is written for: ONNX Runtime's CPU has neither RoiAlign nor MaxRoiPool of opset 22.
    """
    (opset,) = (entry.version for entry in body.opset_import)
    half = "".join(f"half_{i} = Cast <to = {BF16}> (map_{i})\n" for i in range(len(maps)))
    names = ", ".join(f"half_{i}" for i in range(len(maps)))
    given = ", ".join(f"float[N,C,H{i},W{i}] map_{i}" for i in range(len(maps)))
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : {opset}, "frcnn" : 2]>
        g (float[N,R,4] rois, {given}) => (float[K,C,h,w] pooled, bfloat16[K,C,h,w] raw)
        {{ {half} raw = frcnn.{body.name} <{attributes}> (rois, {names})
           pooled = Cast <to = {FLOAT}> (raw) }}
        """
    )
    model.functions.append(body)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"rois": np.array(ROIS, np.float32)} | {f"map_{i}": m.float().numpy() for i, m in enumerate(maps)}
    pooled: np.ndarray[Any, Any] = session.run(["pooled"], feeds)[0]
    return pooled


@pytest.fixture
def maps():
    """Two levels of bfloat16 maps of a 48x64 canvas, two images."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 48 // s, 64 // s, generator=generator).bfloat16() for s in (4, 8)]


GRID = {"output_height": 3, "output_width": 4, "spatial_scales": SCALES, "level_thresholds": THRESHOLDS}
GRID_TEXT = (
    "output_height = 3, output_width = 4, spatial_scales = [0.25, 0.125], level_thresholds = [20.0], "
    "sampling_ratio = 2, aligned = 0"
)


def test_pooling_functions_support_bfloat16(maps):
    rois = torch.tensor(ROIS)
    expected_of = {"MultiscaleRoIPool": reference_roi_pool(rois, maps, **GRID)}
    expected_of["MultiscaleRoIAlign"] = reference_roi_align(rois, maps, sampling_ratio=2, aligned=0, **GRID)
    for name, expected in expected_of.items():
        assert expected.dtype == torch.bfloat16
        attributes = GRID_TEXT if name == "MultiscaleRoIAlign" else GRID_TEXT.partition(", sampling")[0]
        found = torch.from_numpy(run_body(BODIES[name](), attributes, maps))
        absent = torch.tensor([False, False, True, False, True, False])
        assert torch.equal(found[absent], torch.zeros_like(found[absent]))
        # float32 sums in another order may round to the neighbouring bfloat16, 2^-8 away
        torch.testing.assert_close(found, expected.float(), rtol=2**-8, atol=1e-6)
        assert (found == expected.float()).float().mean() > 0.99
        assert found[~absent].abs().sum() > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_tensorrt_rtx_builds_the_types_of_the_networks(family, exports):
    parts = split(onnx.load(exports(family, "bf16").path))
    types: dict[str, set[str]] = {}
    for part in (parts.features, parts.boxes):
        network, _builder = build(part)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            types.setdefault(layer.type.name, set()).add(layer.get_output_type(0).name)
    assert types["CONVOLUTION"] == types["MATRIX_MULTIPLY"] == {"BF16"}


def build(part: onnx.ModelProto) -> Any:
    """Parse and build a network, and return its definition with the builder that keeps it alive."""
    network, (builder, parser) = parse_by_rtx(part)
    assert network is not None
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    opt = {"batch": 1, "32*h": 160, "32*w": 224, "rois": 100}
    (value,) = part.graph.input
    dims = [d.dim_value or opt[d.dim_param] for d in value.type.tensor_type.shape.dim]
    profile.set_shape(value.name, dims, dims, dims)
    assert config.add_optimization_profile(profile) >= 0
    assert builder.build_serialized_network(network, config) is not None
    return network, (builder, parser)


@pytest.mark.parametrize("family", ["vgg16", "resnet50_fpn", "resnet50_fpn_v2"])
def test_most_detections_match_those_of_float32(family, exports):
    """Random weights separate neither proposals nor scores, so this is loose; tests of ``parity`` use a trained model.

    Measured over the three shapes: 92 % to 98 % of the detections above 0.3 have a partner, the median IoU of the
    partners is 0.943 to 0.993.
    """
    model, spec = exports.model(family), exports.spec(family)
    half, single = (DeployableFasterRCNN(model, spec, precision) for precision in ("bf16", "fp32"))
    assert half.dtype == torch.bfloat16
    expected_count, ious = 0, []
    for shape in SHAPES:
        images, sizes = network_input(model, spec, shape)
        with torch.no_grad():
            outputs = [m(images.to(m.dtype), torch.tensor(sizes, dtype=torch.int32)) for m in (single, half)]
        assert outputs[1].boxes.dtype == outputs[1].scores.dtype == torch.float32
        for expected, found in zip(*(detections(output, sizes) for output in outputs), strict=True):
            matches = match(expected, found)
            e, f = matches.pairs[:, 0], matches.pairs[:, 1]
            good = (expected.labels[e] == found.labels[f]) & (expected.scores[e] > 0.3)
            expected_count += int((expected.scores > 0.3).sum())
            ious.extend(matches.ious[good])
    assert expected_count > 200
    assert len(ious) > 0.85 * expected_count
    assert np.median(ious) > 0.92
