"""What a user of TensorRT does without frcnn: torchvision's own export, NMS layers and all, for one image of one size.

Outputs have as many rows as there are detections, so TensorRT asks for their memory while it runs, and waits for the
GPU to know their sizes.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch import Tensor, nn

from frcnn.exporter.engine.builder import attach_timing_cache, write_timing_cache
from frcnn.exporter.engine.network import Messages, parse_model
from frcnn.files import replacing

INPUT: Final = "image"
_OUTPUTS: Final = ("boxes", "labels", "scores")
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "INT32": torch.int32,
    "INT64": torch.int64,
}


def export_naive(model: nn.Module, image: Tensor, path: Path) -> None:
    """Export a torchvision detector as torchvision's documentation does, traced on one image.

    Args:
        model: in eval mode.
        image: (3, H, W) in [0, 1], of the model's type and device.
        path: file to write.
    """
    with warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            ([image],),
            temporary,
            dynamo=False,
            opset_version=17,
            input_names=[INPUT],
            output_names=list(_OUTPUTS),
        )


def without_if(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an exported model without the ``If`` round each NMS, which guards it against no boxes at all.

    ONNX Runtime's converter overlooks the branches, and makes an invalid model of it; and TensorRT may refuse it.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        if node.op_type != "If":
            made.graph.node.append(node)
            continue
        (branch,) = (attribute.g for attribute in node.attribute if attribute.name == "else_branch")
        outputs = {inner.name: outer for inner, outer in zip(branch.output, node.output, strict=True)}
        for inner in branch.node:
            kept = made.graph.node.add()
            kept.CopyFrom(inner)
            kept.output[:] = [outputs.get(name, name) for name in inner.output]
        made.graph.initializer.extend(branch.initializer)
    return made


def convert_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model :func:`without_if` in fp16, inputs and outputs aside, by ONNX Runtime's converter.

    It is that of onnxconverter-common: NMS, TopK and RoIAlign stay in float32, decoding and softmax do not.
    """
    converter = importlib.import_module("onnxruntime.transformers.float16")
    converted: onnx.ModelProto = converter.convert_float_to_float16(model, keep_io_types=True)
    return converted


def build_naive(trt: Any, model: onnx.ModelProto, *, timing: Path, fp16_flag: bool = False) -> bytes:
    """Build a plan from an exported model with TensorRT's defaults, as ``trtexec --onnx=FILE`` does.

    Args:
        trt: the module ``tensorrt``.
        model: of :func:`export_naive`, or what was made of it.
        timing: file for the timing cache, read and updated: builds of one model share most of their layers.
        fp16_flag: whether TensorRT may choose fp16 for any layer, ``trtexec --fp16``; TensorRT 11 no longer can.

    Raises:
        ExportError: TensorRT fails, with its reason.
    """
    trt.init_libnvinfer_plugins(None, "")  # RoIAlign is one
    network = parse_model(trt, model, name="torchvision's export", flags=())
    config = network.builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if fp16_flag:
        config.set_flag(trt.BuilderFlag.FP16)
    cache = attach_timing_cache(network, config, timing, replace=True)
    plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise network.messages.failure("TensorRT cannot build torchvision's export")
    write_timing_cache(cache, timing)
    return bytes(memoryview(plan))


class NaiveEngine:
    """A plan of :func:`build_naive` on the current CUDA device, for one thread.

    Args:
        trt: the module ``tensorrt``.
        plan: the plan.
    """

    def __init__(self, trt: Any, plan: bytes) -> None:
        self._messages = Messages()
        self._runtime = trt.Runtime(self._messages.logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise self._messages.failure("TensorRT cannot load the naive plan")
        self._stream = torch.cuda.Stream()
        self._outputs = _outputs_class(trt)(lambda size: torch.empty(size, dtype=torch.uint8, device="cuda"))
        for name in _OUTPUTS:
            self._context.set_output_allocator(name, self._outputs)

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Detect in an image (3, H, W) on the device; the current stream then waits for the detections."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        self._context.set_tensor_address(INPUT, image.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise self._messages.failure("TensorRT cannot run the naive plan")
        current.wait_stream(self._stream)
        return {name: self._output(name) for name in _OUTPUTS}

    def _output(self, name: str) -> Tensor:
        shape, raw = self._outputs.shapes[name], self._outputs.memory[name]
        assert isinstance(raw, Tensor)
        dtype = _DTYPES[self._engine.get_tensor_dtype(name).name]
        size = int(torch.Size(shape).numel()) * dtype.itemsize
        return raw[:size].view(dtype).reshape(shape)


def _outputs_class(trt: Any) -> Any:
    """Return a class of allocators of outputs, which keep what they allocated and each output's shape."""

    class Outputs(trt.IOutputAllocator):  # type: ignore[misc] # TensorRT has no type information
        def __init__(self, allocate: Callable[[int], Tensor]) -> None:
            trt.IOutputAllocator.__init__(self)
            self._allocate = allocate
            self.memory: dict[str, Tensor] = {}
            self.shapes: dict[str, tuple[int, ...]] = {}

        def reallocate_output_async(self, name: str, _memory: int, size: int, _alignment: int, _stream: int) -> int:
            if name not in self.memory or self.memory[name].numel() < size:
                self.memory[name] = self._allocate(max(size, 1))
            return int(self.memory[name].data_ptr())

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shapes[name] = tuple(shape)

    return Outputs
