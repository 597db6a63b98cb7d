"""A real model quantised by ONNX Runtime, judged, and written or not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from support.exports import bare_session
from support.processor import saturates

from frcnn.benchmarks import QuantizationReport, quantize_onnx
from frcnn.benchmarks.trial import ARCHITECTURE, CHECKPOINT
from frcnn.errors import OutputError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Manifest

DEMO = Path(__file__).resolve().parents[3] / "examples" / "train_demo"
ANY_DROP = 100.0


def options(folder: Path, **more: object) -> dict[str, object]:
    return {"annotations": folder / "instances.json", "max_drop": ANY_DROP, "threads": 1, **more}


@pytest.fixture(scope="module")
def quantized(tiny_model, annotated_noise, tmp_path_factory) -> tuple[Path, QuantizationReport, list[str]]:
    """The tiny model in int8, the report, and what was told."""
    path, told = tmp_path_factory.mktemp("quantized") / "int8.onnx", []
    report = quantize_onnx(
        tiny_model, path, annotated_noise / "images", **options(annotated_noise, progress=told.append)
    )
    return path, report, told


def test_the_file_is_the_same_detector_with_quantised_layers(quantized, tiny_model):
    path, report, _ = quantized
    before, after = (open_artifact(file).manifest for file in (tiny_model, path))
    assert isinstance(before, Manifest) and isinstance(after, Manifest)
    assert after.precision == "int8"
    assert after.quantization == report.quantization
    same = {"precision": before.precision, "quantization": None, "versions": before.versions}
    assert msgspec.structs.replace(after, **same) == before
    assert after.versions == before.versions | {"onnxruntime": after.versions["onnxruntime"]}
    assert after.quantization.images == len(report.calibration_images) == 12
    assert not after.quantization.symmetric

    models = [onnx.load_model(file) for file in (tiny_model, path)]
    kinds = [{node.op_type for node in model.graph.node} for model in models]
    assert kinds[1] - kinds[0] >= {"QuantizeLinear", "DequantizeLinear"}
    assert [f.name for f in models[1].functions] == [f.name for f in models[0].functions]


def test_layers_in_float_are_those_that_the_manifest_names(quantized):
    path, report, _ = quantized
    model = onnx.load_model(path)
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    heavy = {node.name: node for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    in_float = {name for name, node in heavy.items() if makers.get(node.input[1]) != "DequantizeLinear"}
    assert in_float == set(report.quantization.float_layers)
    listed = {layer for group in report.float_groups() for layer in group.layers}
    assert listed == in_float


def test_the_detector_runs_it(quantized, annotated_noise):
    path, _, _ = quantized
    with Detector.load(path, threads=1) as detector:
        found = detector(sorted((annotated_noise / "images").iterdir())[:3])
    assert all(len(detections) for detections in found)


def test_the_report_says_what_was_done(quantized):
    path, report, told = quantized
    assert report.passed and report.proof == "accuracy"
    assert report.float32.measures["AP"] == pytest.approx(1.0)
    assert report.drop == pytest.approx(100 * (1 - report.int8.measures["AP"]))
    assert report.int8.bytes == path.stat().st_size
    assert not set(report.calibration_images) & set(report.gate_images)
    assert sum(group.macs for group in report.groups) == pytest.approx(1.0)
    assert report.float_macs == sum(group.macs for group in report.float_groups())
    assert {"float32", "calibration", "search", "all"} == set(report.seconds)
    assert report.peak_memory_bytes > 1e7
    assert told[0] == "12 images to calibrate on, 12 others for the gate"
    assert msgspec.json.decode(msgspec.json.encode(report), type=QuantizationReport) == report


@pytest.mark.usefixtures("impassable")
def test_nothing_is_written_where_nothing_holds(tiny_model, annotated_noise, tmp_path):
    output = tmp_path / "int8.onnx"
    output.write_text("the last one that passed")
    report = quantize_onnx(tiny_model, output, annotated_noise / "images", **options(annotated_noise))
    assert not report.passed
    assert report.sensitivity_images == 4
    assert len(report.attempts) == len(report.groups) - 1, "all groups but that which is never int8"
    assert [group.precision for group in report.groups].count("int8") == 1
    assert [group.name for group in report.groups if group.recovered is None] == ["prediction layers"]
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    assert output.read_text() == "the last one that passed"


def test_without_annotations_agreement_is_the_gate(tiny_model, annotated_noise, tmp_path):
    report = quantize_onnx(tiny_model, tmp_path / "int8.onnx", annotated_noise / "images", threads=1)
    assert (report.proof, report.objects) == ("agreement", None)
    assert report.passed == (tmp_path / "int8.onnx").exists()
    assert report.float32.measures["missing"] == report.float32.measures["moved"] == 0


def test_activations_for_tensorrt_have_zero_points_of_0(tiny_model, annotated_noise, tmp_path):
    path = tmp_path / "int8.onnx"
    report = quantize_onnx(tiny_model, path, annotated_noise / "images", **options(annotated_noise, target="tensorrt"))
    assert report.quantization.symmetric
    model = onnx.load_model(path)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    points = [node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert points
    assert all(values[point].dtype == np.int8 and not values[point].any() for point in points)


def test_inlined_it_has_no_functions_and_finds_the_same(quantized, tiny_model, annotated_noise, tmp_path):
    path = tmp_path / "inlined.onnx"
    report = quantize_onnx(tiny_model, path, annotated_noise / "images", **options(annotated_noise, inline=True))
    model = onnx.load_model(path)
    assert not model.functions
    assert report.passed
    feeds = {"images": np.zeros((1, 3, 32, 64), np.float32), "image_sizes": np.array([[32, 64]], np.int32)}
    outputs = [bare_session(file).run(None, feeds) for file in (quantized[0], path)]
    assert all(np.array_equal(a, b) for a, b in zip(*outputs, strict=True))


def test_options_that_make_no_sense_are_refused(tiny_model, annotated_noise, tmp_path):
    images = annotated_noise / "images"
    with pytest.raises(UsageError, match=r"expected a file name ending in \.onnx"):
        quantize_onnx(tiny_model, tmp_path / "int8.frcnn", images)
    with pytest.raises(UsageError, match="is the model and would be overwritten"):
        quantize_onnx(tiny_model, tiny_model.parent / "." / tiny_model.name, images)
    with pytest.raises(UsageError, match="target: expected cpu or tensorrt, got 'gpu'"):
        quantize_onnx(tiny_model, tmp_path / "int8.onnx", images, target="gpu")
    with pytest.raises(UsageError, match="max_drop: expected 0 to 100, got -1"):
        quantize_onnx(tiny_model, tmp_path / "int8.onnx", images, max_drop=-1)
    with pytest.raises(UsageError, match="gate_images: expected 4 or more, got 0"):
        quantize_onnx(tiny_model, tmp_path / "int8.onnx", images, gate_images=0)
    with pytest.raises(UsageError, match="images: expected a folder, or files and folders, got nothing"):
        quantize_onnx(tiny_model, tmp_path / "int8.onnx", [])
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        quantize_onnx(tiny_model, tmp_path / "folder.onnx", images)


def test_a_failure_leaves_nothing(tiny_model, annotated_noise, tmp_path, monkeypatch):
    temporary, output = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    seen: list[str] = []

    def interrupted(line: str) -> None:
        if line.startswith("int8: "):
            seen.extend(path.name for path in temporary.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_onnx(
            tiny_model,
            output / "int8.onnx",
            annotated_noise / "images",
            **options(annotated_noise, progress=interrupted),
        )
    assert len(seen) == 1, "one folder, and nothing of the calibration"
    assert not list(temporary.iterdir())
    assert not list(output.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="the demo's scenes need scikit-image")
def test_the_demo_keeps_its_accuracy(tmp_path):
    """AP falls by no more than 0.3 points on 100 scenes that it was not calibrated on.

    With all layers in int8 it falls by 0.64 on these scenes (by 0.19 on 300 others): the first layer has to go back.
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    export = [sys.executable, "-m", "frcnn", "export", str(CHECKPOINT), "--arch", ARCHITECTURE]
    scenes = [sys.executable, "scenes.py", "--count", "160", "--seed", "90210", "-o", str(tmp_path / "scenes")]
    for command in ([*export, "-o", str(tmp_path / "model.onnx")], scenes):
        subprocess.run(command, cwd=DEMO, env=environment, check=True, capture_output=True, timeout=300)
    report = quantize_onnx(
        tmp_path / "model.onnx",
        tmp_path / "int8.onnx",
        tmp_path / "scenes" / "images",
        annotations=tmp_path / "scenes" / "instances.json",
        calibration_images=60,
    )
    assert report.passed and report.drop <= 0.3
    floats, share = (0.5, 0.6) if saturates() else (0.1, 0.4)  # more layers have to go back there
    assert report.float_macs < floats
    assert (len(report.calibration_images), len(report.gate_images)) == (60, 100)
    assert report.int8.bytes < share * report.float32.bytes
