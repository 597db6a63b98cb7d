"""The naive path in TensorRT: what it makes of torchvision's export, and how its engine is run, without a GPU."""

from __future__ import annotations

import ctypes
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maintenance.naive_tensorrt import NaiveEngine, build_naive, convert_to_fp16, export_naive, without_if
from onnxruntime import InferenceSession
from support.exports import calibrated

from frcnn.errors import ExportError


@pytest.mark.slow
def test_what_is_made_of_the_export_finds_the_same(tmp_path: Path) -> None:
    model, path = calibrated("resnet50_fpn"), tmp_path / "naive.onnx"
    image = torch.rand(3, 96, 160, generator=torch.Generator().manual_seed(0))
    export_naive(model, image, path)
    exported = onnx.load(path)
    assert sum(node.op_type == "If" for node in exported.graph.node) == 2

    def run(made: onnx.ModelProto) -> list[np.ndarray[Any, Any]]:
        outputs: Any = InferenceSession(made.SerializeToString()).run(None, {"image": image.numpy()})
        return list(outputs)

    expected, plain = run(exported), run(without_if(exported))
    assert len(expected[0]) > 0
    for one, other in zip(expected, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    half = convert_to_fp16(without_if(exported))
    weights = [tensor for tensor in half.graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert [output.dtype for output in run(half)] == [np.float32, np.int64, np.float32]


class Runs:
    """A context that asks for the memory of its outputs as TensorRT does, and writes them."""

    def __init__(self) -> None:
        self.outputs: Any = None
        self.counts = iter((2, 3, 1))

    def set_output_allocator(self, name: str, outputs: Any) -> None:
        self.outputs = outputs

    def set_tensor_address(self, name: str, pointer: int) -> None:
        assert (name, pointer > 0) == ("image", True)

    def execute_async_v3(self, stream: int) -> bool:
        count = next(self.counts, 0)
        if count == 0:
            return False
        for name, shape, dtype in (("boxes", (count, 4), np.float32), ("labels", (count,), np.int64)):
            self._write(name, np.full(shape, count, dtype))
        self._write("scores", np.full(count, 0.5, np.float32))
        return True

    def _write(self, name: str, values: np.ndarray[Any, Any]) -> None:
        pointer = self.outputs.reallocate_output_async(name, 0, values.nbytes, 256, 7)
        ctypes.memmove(pointer, values.ctypes.data, values.nbytes)
        self.outputs.notify_shape(name, values.shape)


class ILogger:
    def __init__(self) -> None:
        self.is_ready = True


IOutputAllocator = ILogger


def tensorrt(context: Any) -> Any:
    """Return as much of the module as the engine uses."""
    kinds = {"boxes": "FLOAT", "labels": "INT64", "scores": "FLOAT"}
    raw = SimpleNamespace(
        create_execution_context=lambda: context,
        get_tensor_dtype=lambda name: SimpleNamespace(name=kinds[name]),
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: raw if plan == b"plan" else None)
    return SimpleNamespace(ILogger=ILogger, IOutputAllocator=IOutputAllocator, Runtime=lambda logger: runtime)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    stream = SimpleNamespace(wait_stream=lambda other: None, cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch, "empty", lambda size, *, dtype, device: empty(size, dtype=dtype))


@pytest.mark.usefixtures("on_the_cpu")
def test_outputs_have_the_shapes_that_tensorrt_tells() -> None:
    engine = NaiveEngine(tensorrt(Runs()), b"plan")
    for count in (2, 3, 1):  # memory grows, and is kept
        found = engine(torch.zeros(3, 8, 8))
        assert found["boxes"].tolist() == [[float(count)] * 4] * count
        assert found["labels"].tolist() == [count] * count
        assert found["scores"].tolist() == [0.5] * count
    with pytest.raises(ExportError, match="TensorRT cannot run the naive plan"):
        engine(torch.zeros(3, 8, 8))


@pytest.mark.usefixtures("on_the_cpu")
def test_a_plan_that_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(ExportError, match="TensorRT cannot load the naive plan"):
        NaiveEngine(tensorrt(Runs()), b"other")


def test_a_build_sets_the_flag_that_is_asked_for_and_tells_why_it_fails(tmp_path: Path) -> None:
    flags: list[str] = []
    read: list[bytes] = []
    cache = SimpleNamespace(serialize=lambda: b"times")
    config = SimpleNamespace(
        set_flag=flags.append,
        create_timing_cache=lambda data: read.append(data) or cache,
        set_timing_cache=lambda cache, ignore_mismatch: True,
    )
    outcome: dict[str, Any] = {"parse": True, "plan": b"plan"}
    error = SimpleNamespace(
        node_name=lambda: "/If",
        node_operator=lambda: "If",
        code=lambda: SimpleNamespace(name="INVALID_NODE"),
        desc=lambda: "branches differ",
    )
    parser = SimpleNamespace(parse=lambda data: outcome["parse"], num_errors=1, get_error=lambda index: error)
    builder = SimpleNamespace(
        create_network=lambda flags: None,
        create_builder_config=lambda: config,
        build_serialized_network=lambda network, config: outcome["plan"],
    )
    trt: Any = SimpleNamespace(
        ILogger=ILogger,
        init_libnvinfer_plugins=lambda logger, namespace: True,
        Runtime=lambda logger: object(),
        NetworkDefinitionCreationFlag=object,
        Builder=lambda logger: builder,
        OnnxParser=lambda network, logger: parser,
        ProfilingVerbosity=SimpleNamespace(DETAILED=2),
        BuilderFlag=SimpleNamespace(FP16="FP16"),
    )
    build = partial(build_naive, trt, onnx.ModelProto(), timing=tmp_path / "naive.timing")
    assert build() == b"plan"
    assert flags == []
    assert build(fp16_flag=True) == b"plan"
    assert flags == ["FP16"]
    assert read == [b"", b"times"]  # what the first build timed, the second one need not
    outcome["plan"] = None
    with pytest.raises(ExportError, match="cannot build torchvision's export"):
        build()
    outcome["parse"] = False
    with pytest.raises(ExportError, match=r"cannot take torchvision's export: node '/If' \(If\): INVALID_NODE, br"):
        build()
