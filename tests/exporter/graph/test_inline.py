"""``--inline``: the same model in standard operators only."""

from __future__ import annotations

import onnx
import pytest
from support import tiny_detector
from support.exports import OUTPUTS, bare_session, run_bare
from support.images import LANDSCAPE, network_input

from frcnn.errors import ExportError
from frcnn.exporter import build_engine, export_onnx
from frcnn.exporter.graph.inline import inline_operators
from frcnn.exporter.graph.nodes import all_nodes
from frcnn.exporter.graph.split import split
from frcnn.plugins import DOMAIN


@pytest.mark.parametrize(
    ("family", "precision"), [("vgg16", "fp32"), ("vgg16", "fp16"), ("resnet18_fpn_max", "fp32"), ("swin_fpn", "fp32")]
)
def test_an_inlined_model_gives_the_same_bytes(family, precision, exports):
    export = exports(family, precision)
    inlined = inline_operators(onnx.load(export.path))
    images, sizes = network_input(export.model, export.spec, LANDSCAPE)
    expected = run_bare(exports.session(export), images, sizes)
    found = run_bare(bare_session(inlined.SerializeToString()), images, sizes)
    assert expected[0].min() > 5
    assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


def test_an_inlined_model_is_valid_onnx_of_standard_operators(tiny_model):
    model = onnx.load(tiny_model)
    before = model.SerializeToString(deterministic=True)
    inlined = inline_operators(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(inlined, full_check=True)
    assert not inlined.functions
    assert {node.domain for node in all_nodes(inlined.graph.node)} == {""}
    assert [(entry.domain, entry.version) for entry in inlined.opset_import] == [("", 20)]
    assert inlined.metadata_props == model.metadata_props
    assert inlined.graph.initializer == model.graph.initializer
    assert inlined.graph.input == model.graph.input and inlined.graph.output == model.graph.output


def test_nodes_are_named_after_the_operator_that_they_come_from(tiny_model):
    model = onnx.load(tiny_model)
    nodes = inline_operators(model).graph.node
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert {node.name for node in model.graph.node if node.domain != DOMAIN} < set(names)
    for operator in ("rpn/RegionProposals/TopK", "roi_heads/MultiscaleRoIAlign/RoiAlign", "roi_heads/BoxDetections/"):
        assert any(name.startswith(operator) for name in names), operator
    topk = [node.name for node in nodes if node.op_type == "TopK" and node.name.startswith("rpn/")]
    assert topk == [f"rpn/RegionProposals/TopK{number}" for number in ("", "_2")][: len(topk)]


def test_a_model_without_functions_stays_as_it_is(tiny_model):
    inlined = inline_operators(onnx.load(tiny_model))
    assert inline_operators(inlined) == inlined


@pytest.mark.slow
def test_export_writes_either_form(tmp_path):
    detector = tiny_detector.build()
    plain, inlined = tmp_path / "model.onnx", tmp_path / "inline.onnx"
    manifest = export_onnx(detector, plain)
    assert export_onnx(detector, inlined, inline=True) == manifest
    expected = inline_operators(onnx.load(plain))
    assert onnx.load(inlined) == expected
    assert [value.name for value in expected.graph.output] == list(OUTPUTS)


def test_no_engine_is_built_from_an_inlined_model(tiny_model, tmp_path):
    path = tmp_path / "inline.onnx"
    inlined = inline_operators(onnx.load(tiny_model))
    onnx.save_model(inlined, path)
    with pytest.raises(ExportError, match="they are inlined") as caught:
        split(inlined)
    assert "without --inline" in caught.value.hint
    with pytest.raises(ExportError, match="they are inlined"):
        build_engine(path, tmp_path / "model.frcnn", target="onnxruntime")
    assert [file.name for file in tmp_path.iterdir()] == ["inline.onnx"]
