"""frcnn.runtime.host.onnxruntime_backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from frcnn.errors import ArtifactError, MissingDependencyError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.images.preprocess import bfloat16_bits
from frcnn.spec import Manifest

SIZES = np.array([[32, 64], [16, 32]], np.int32)
IMAGES = np.stack([np.full((3, 32, 64), level, np.float32) for level in (0.5, 1.0)])


def test_it_runs_a_batch(model_path: Path) -> None:
    output = OnnxRuntimeBackend(model_path, threads=1).run(IMAGES, SIZES)
    assert output.num_detections.tolist() == [2, 2]
    np.testing.assert_allclose(output.scores[:, 0], [0.5, 1.0])
    np.testing.assert_allclose(output.boxes[1, 1], [16, 8, 32, 16])
    assert [value.dtype for value in (output.num_detections, output.boxes, output.scores, output.labels)] == [
        np.int32,
        np.float32,
        np.float32,
        np.int32,
    ]


def test_a_file_of_version_1_of_the_domain_runs_by_its_bodies(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    (last,) = (node for node in model.graph.node if "scores" in node.output)
    last.output[:] = ["candidates"]
    model.graph.node.add(domain="frcnn", op_type="GroupedNMS", input=["boxes", "candidates"], output=["scores"])
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("iou_threshold", 0.5))
    body = """<domain: "frcnn", opset_import: ["" : 20]>
        GroupedNMS <iou_threshold> (boxes, scores) => (kept) { half = Constant <value_float: float = @iou_threshold> ()
        kept = Mul (scores, half) }"""
    model.functions.append(onnx.parser.parse_function(body))
    model.opset_import.append(onnx.helper.make_opsetid("frcnn", 1))
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "model.onnx")
    output = OnnxRuntimeBackend(tmp_path / "model.onnx", threads=1).run(IMAGES, SIZES)
    np.testing.assert_allclose(output.scores[:, 0], [0.25, 0.5])


def test_half_precision_models_get_half_precision(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest]
) -> None:
    backend = OnnxRuntimeBackend(model_of(manifest_of(precision="fp16"), dtype="float16"), threads=1)
    np.testing.assert_allclose(backend.run(IMAGES, SIZES).scores[:, 0], [0.5, 1.0])


def test_a_bf16_model_is_refused_on_the_cpu_in_one_line(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_of(manifest_of(precision="bf16"), dtype="bfloat16")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **options: pytest.fail("loaded for nothing"))
    for load in (OnnxRuntimeBackend, Detector.load):
        with pytest.raises(ArtifactError) as raised:
            load(path)
        assert raised.value.message == f"{path} is bf16, which ONNX Runtime has no CPU kernels for"
        assert f"frcnn build {path} --target tensorrt-rtx" in raised.value.hint
        assert "--precision fp32" in raised.value.hint


def test_bf16_images_are_rounded(model_of: Callable[..., Path], manifest_of: Callable[..., Manifest]) -> None:
    """The stand-in model only casts its input, which the CPU can; its manifest says fp32, or it would be refused."""
    path = model_of(manifest_of(), dtype="bfloat16")
    level = np.float32(0.7231)
    images = np.stack([np.full((3, 32, 64), value, np.float32) for value in (level, 1.0)])
    output = OnnxRuntimeBackend(path, threads=1).run(images, SIZES)
    rounded = float(torch.tensor(level).bfloat16())
    assert rounded != level
    np.testing.assert_array_equal(output.scores[:, 0], np.array([rounded, 1.0], np.float32))
    np.testing.assert_allclose(output.boxes[1, 1], [16, 8, 32, 16])
    assert output.num_detections.tolist() == [2, 2]


def test_bfloat16_is_rounded_as_in_pytorch() -> None:
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 100_000, dtype=np.uint32)
    bits[:1000] = (bits[:1000] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)  # halfway, which goes to the even one
    values = bits.view(np.float32)
    values = values[np.isfinite(values)].reshape(1, -1)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16_bits(values), expected)


def test_other_inputs_are_refused(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pixels"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"expected inputs \('images', 'image_sizes'\).*got \('pixels'"):
        OnnxRuntimeBackend(tmp_path / "model.onnx")


def test_other_input_types_are_refused(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        ArtifactError,
        match=r"expected images as one of tensor\(float\), .*tensor\(bfloat16\), got tensor\(double\)",
    ):
        OnnxRuntimeBackend(tmp_path / "model.onnx")


def test_a_model_that_does_not_load_is_refused(
    model_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(model_path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx: ONNX Runtime cannot load it: .*NoSuchOperator") as raised:
        OnnxRuntimeBackend(tmp_path / "model.onnx")
    assert "\n" not in raised.value.message
    assert capfd.readouterr() == ("", "")


def test_a_failing_network_is_our_error(model_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = OnnxRuntimeBackend(model_path, threads=1)
    with pytest.raises(ArtifactError, match=r"failed on 2 image\(s\) on a 32x64 canvas"):
        backend.run(IMAGES, SIZES[:, :1].copy())
    assert capfd.readouterr() == ("", "")


def test_options_are_checked(model_path: Path) -> None:
    with pytest.raises(UsageError, match="threads: expected 1 or more, got 0"):
        OnnxRuntimeBackend(model_path, threads=0)


def test_without_onnxruntime_the_extra_is_named(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"frcnn\[cpu\]"):
        OnnxRuntimeBackend(model_path)


def test_a_closed_backend_refuses_calls(model_path: Path) -> None:
    backend = OnnxRuntimeBackend(model_path, threads=1)
    backend.close()
    with pytest.raises(UsageError, match="closed"):
        backend.run(IMAGES, SIZES)
