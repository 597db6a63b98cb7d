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

import torch
from torch import Tensor, nn

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Messages
from frcnn.files import replacing

__all__ = ["NaiveEngine", "build_naive", "convert_to_fp16", "export_naive"]

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


def convert_to_fp16(source: Path, path: Path) -> None:
    """Convert an exported model as ONNX Runtime's converter (onnxconverter-common's) does, and check that it is valid.

    Raises:
        ExportError: what it makes is no valid model. It is not, of torchvision 0.29's export: it overlooks the branches
            of its ``If`` nodes.
    """
    import onnx
    import onnxruntime

    converter = importlib.import_module("onnxruntime.transformers.float16")
    converted = converter.convert_float_to_float16(onnx.load(source), keep_io_types=True)
    try:
        onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes share no base but this
        raise ExportError(f"converted to fp16 the model is not valid: {' '.join(str(error).split())}") from error
    with replacing(path) as temporary:
        onnx.save(converted, temporary)


def build_naive(trt: Any, path: Path, *, fp16_flag: bool = False) -> bytes:
    """Build a plan from an exported model with TensorRT's defaults, as ``trtexec --onnx=FILE`` does.

    Args:
        trt: the module ``tensorrt``.
        path: the model.
        fp16_flag: whether TensorRT may choose fp16 for any layer, ``trtexec --fp16``; TensorRT 11 no longer can.

    Raises:
        ExportError: TensorRT fails, with its reason.
    """
    messages = Messages()
    logger = messages.logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        messages.errors[:0] = [
            f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" for error in errors
        ]
        raise messages.failure(f"TensorRT cannot take {path.name}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if fp16_flag:
        config.set_flag(trt.BuilderFlag.FP16)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise messages.failure(f"TensorRT cannot build {path.name}")
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
