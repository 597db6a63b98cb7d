"""frcnn.runtime.host.onnxruntime_backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from frcnn.errors import ArtifactError
from frcnn.runtime import Detector
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.images.preprocess import bfloat16_bits
from frcnn.spec import Manifest

SIZES = np.array([[32, 64], [16, 32]], np.int32)
IMAGES = np.stack([np.full((3, 32, 64), level, np.float32) for level in (0.5, 1.0)])


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
