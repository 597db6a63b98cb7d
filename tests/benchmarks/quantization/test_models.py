"""Models that are no float32 detector of ours are refused; multiplications and additions are worked out by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from support.engine_files import write_engine_file

from frcnn.benchmarks.quantization.models import layer_macs, read_float_model
from frcnn.errors import ArtifactError, ExportError
from frcnn.exporter.graph.inline import inline_operators
from frcnn.spec import MANIFEST_KEY


def changed(tiny_model: Path, path: Path, *, precision: str | None = None, rename: str | None = None) -> Path:
    model = onnx.load_model(tiny_model)
    if precision is not None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
        quantization = '"quantization":{"quantizer":"x 1","symmetric":false,"images":9,"float_layers":[]},'
        entry.value = entry.value.replace('"precision":"fp32",', f'"precision":"{precision}",')
        if precision == "int8":
            entry.value = "{" + quantization + entry.value[1:]
    if rename is not None:
        (node,) = (node for node in model.graph.node if node.op_type == rename)
        node.op_type = f"Former{rename}"
    onnx.save_model(model, path)
    return path


def test_a_float32_model_is_read(tiny_model):
    assert read_float_model(tiny_model).manifest.precision == "fp32"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_another_precision_is_refused(precision, tiny_model, tmp_path):
    path = changed(tiny_model, tmp_path / "other.onnx", precision=precision)
    with pytest.raises(ArtifactError, match=f"expected a float32 model.onnx, got .*{precision}") as caught:
        read_float_model(path)
    assert "frcnn export CHECKPOINT" in caught.value.hint


def test_an_inlined_model_is_refused(tiny_model, tmp_path):
    path = tmp_path / "inlined.onnx"
    onnx.save_model(inline_operators(onnx.load_model(tiny_model)), path)
    with pytest.raises(ArtifactError, match="got an inlined model") as caught:
        read_float_model(path)
    assert "export without --inline" in caught.value.hint


def test_an_older_graph_is_refused(tiny_model, tmp_path):
    path = changed(tiny_model, tmp_path / "older.onnx", rename="RegionProposals")
    with pytest.raises(ExportError, match="the graph is not that of a detector") as caught:
        read_float_model(path)
    assert "export the checkpoint again" in caught.value.hint


def test_an_engine_artifact_is_refused(tmp_path):
    path = write_engine_file(tmp_path / "model.frcnn")
    with pytest.raises(ArtifactError, match="got an engine artifact") as caught:
        read_float_model(path)
    assert "frcnn build model-int8.onnx" in caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b"hello"])
def test_a_file_that_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "none.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError):
        read_float_model(path)


def test_macs_of_every_layer(tiny_model):
    """Two convolutions of stride 2 and 4, the RPN head on 4 x 8 cells, and 20 proposals of 3 x 3 cells."""
    macs = layer_macs(onnx.load_model(tiny_model), (32, 64))
    cells, proposals, channels = 4 * 8, 20, 8
    assert sorted(macs.values()) == sorted(
        [
            16 * 32 * channels * 3 * 9,
            cells * channels * channels * 9,
            cells * channels * channels * 9,  # the RPN's own
            cells * 3 * channels,
            cells * 12 * channels,
            proposals * 16 * channels * 9,
            proposals * 16 * 16,
            proposals * 4 * 16,
            proposals * 16 * 16,
        ]
    )
    assert macs["roi_heads/box_predictor/cls_score/Gemm"] == proposals * 4 * 16


def test_the_model_is_not_changed(tiny_model):
    model = onnx.load_model(tiny_model)
    layer_macs(model, (32, 32))
    assert model == onnx.load_model(tiny_model)
