"""frcnn.runtime.onnxruntime_backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from frcnn.errors import ArtifactError, MissingDependencyError, UsageError
from frcnn.runtime.onnxruntime_backend import OnnxRuntimeBackend, available_cpus
from frcnn.spec import Manifest

SIZES = np.array([[32, 64], [16, 32]], np.int32)
IMAGES = np.stack([np.full((3, 32, 64), level, np.float32) for level in (0.5, 1.0)])


def test_runs_a_batch(model_path: Path) -> None:
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


def test_half_precision_models_get_half_precision(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest]
) -> None:
    backend = OnnxRuntimeBackend(model_of(manifest_of(precision="fp16"), dtype="float16"), threads=1)
    np.testing.assert_allclose(backend.run(IMAGES, SIZES).scores[:, 0], [0.5, 1.0])


def test_other_inputs_are_refused(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    for node in model.graph.node:
        node.input[:] = ["pictures" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pictures"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"expected inputs \('images', 'image_sizes'\).*got \('pictures'"):
        OnnxRuntimeBackend(tmp_path / "model.onnx")


def test_other_input_types_are_refused(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        ArtifactError, match=r"expected images as tensor\(float\) or tensor\(float16\), got tensor\(double\)"
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
    with pytest.raises(ArtifactError, match=r"failed on 2 picture\(s\) on a 32x64 canvas"):
        backend.run(IMAGES, SIZES[:, :1].copy())
    assert capfd.readouterr() == ("", "")


def test_options_are_checked(model_path: Path) -> None:
    with pytest.raises(UsageError, match="threads: expected 1 or more, got 0"):
        OnnxRuntimeBackend(model_path, threads=0)
    with pytest.raises(UsageError, match="device: expected one of cpu, cuda, got 'tpu'"):
        OnnxRuntimeBackend(model_path, device="tpu")  # type: ignore[arg-type]


def test_cuda_without_its_package_names_the_extra(model_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises(MissingDependencyError, match=r"frcnn\[gpu\]"):
        OnnxRuntimeBackend(model_path, device="cuda")


def test_without_onnxruntime_the_extra_is_named(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"frcnn\[cpu\]"):
        OnnxRuntimeBackend(model_path)


def test_a_closed_backend_says_so(model_path: Path) -> None:
    backend = OnnxRuntimeBackend(model_path, threads=1)
    backend.close()
    with pytest.raises(UsageError, match="closed"):
        backend.run(IMAGES, SIZES)


def test_there_is_a_processor() -> None:
    assert available_cpus() >= 1
