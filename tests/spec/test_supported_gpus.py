"""frcnn.spec.supported_gpus: which GPUs each target serves, held to TensorRT-RTX's own list."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from frcnn.spec.supported_gpus import (
    RTX_COMPUTE_CAPABILITIES,
    RTX_DEFAULT,
    architecture_of,
    gpus_text,
    other_ways,
    refusal,
    runs_on,
    serves,
)

NAMED = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
LATER = ("12.2", "12.9", "13.0", "20.0")
UNSERVED = ("5.2", "6.1", "7.0", "7.2", "8.7", "8.8", "9.0", "10.0", "10.1", "10.3", "11.0")


def test_the_list_is_that_of_the_installed_tensorrt_rtx() -> None:
    """A version that serves other GPUs fails here, so that the list follows."""
    trt: Any = importlib.import_module("tensorrt_rtx")
    numbers = sorted(value for value in map(int, trt.ComputeCapability.__members__.values()) if value > 1)
    assert tuple(f"{number // 10}.{number % 10}" for number in numbers) == NAMED == RTX_COMPUTE_CAPABILITIES


@pytest.mark.parametrize("capability", NAMED)
def test_tensorrt_rtx_serves_each_gpu_of_its_list(capability: str) -> None:
    assert serves("tensorrt-rtx", capability)
    assert runs_on("tensorrt-rtx", (capability,), capability)
    assert not runs_on("tensorrt-rtx", tuple(name for name in NAMED if name != capability), capability)
    assert runs_on("tensorrt-rtx", (), capability) == (capability != "7.5") == (capability in RTX_DEFAULT)


@pytest.mark.parametrize("capability", LATER)
def test_a_later_gpu_runs_engines_built_for_the_default(capability: str) -> None:
    assert serves("tensorrt-rtx", capability)
    assert runs_on("tensorrt-rtx", (), capability)
    assert not runs_on("tensorrt-rtx", NAMED, capability)


@pytest.mark.parametrize("capability", UNSERVED)
def test_other_gpus_are_served_by_tensorrt_only(capability: str) -> None:
    assert not serves("tensorrt-rtx", capability)
    assert not runs_on("tensorrt-rtx", (), capability)
    assert not runs_on("tensorrt-rtx", (capability,), capability)
    assert serves("tensorrt", capability)
    assert runs_on("tensorrt", (capability,), capability)
    assert not runs_on("tensorrt", ("8.9",), capability)
    assert serves("onnxruntime", capability)
    assert runs_on("onnxruntime", (), capability)


def test_messages_name_the_gpus_and_the_alternative() -> None:
    assert refusal("9.0") == (
        "TensorRT-RTX serves GPUs of compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and later, not 9.0"
    )
    for capability in ("8.7", "9.0", "10.3"):
        assert "frcnn build model.onnx --target onnxruntime" in other_ways(capability)
        assert other_ways(capability).endswith("frcnn build model.onnx --target tensorrt")
    assert other_ways("7.0").endswith("run model.onnx on the processor: Detector.load('model.onnx')")
    assert gpus_text(()) == "8.0, 8.6, 8.9, 12.0, 12.1 and later"
    assert gpus_text(("9.0",)) == "9.0"
    assert list(map(architecture_of, ("7.5", "10.0", "12.1"))) == ["sm_75", "sm_100", "sm_121"]
