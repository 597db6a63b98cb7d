"""The two networks of a detector as PyTorch modules, run as engines: on our stream, from and to our addresses.

For measurement and tests only. A system with PyTorch and nothing else runs the whole pipeline with it: kernels,
preprocessing, capture, workers. Modules are channels-last, so that pooled maps lie as the kernel reads them.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import torch
from torch import Tensor, nn

from frcnn.runtime.gpu.device import LayerReport, Shape
from frcnn.runtime.gpu.program import ELEMENT_DTYPES
from frcnn.spec.engine import EngineTensor

_WARM_UP: Final = 3  # runs in which PyTorch chooses algorithms and allocates

Network = Callable[..., Sequence[Tensor]]


class TorchEngine:
    """A module as an engine; see :class:`~frcnn.runtime.gpu.device.Engine`.

    Args:
        network: takes the inputs in order and returns the outputs in order; on the device already.
        inputs: names.
        outputs: names.
        tensors: the manifest's.
        on_gpu: whether addresses are of the current CUDA device, or of host memory.
    """

    def __init__(
        self,
        network: Network,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        tensors: Mapping[str, EngineTensor],
        on_gpu: bool,
    ) -> None:
        self.network = network
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.tensors = tensors
        self.on_gpu = on_gpu

    def create_context(self) -> TorchContext:
        """Return a context."""
        return TorchContext(self)

    def close(self) -> None:
        """Release nothing: modules are the caller's."""


class TorchContext:
    """An engine bound to shapes; see :class:`~frcnn.runtime.gpu.device.EngineContext`."""

    workspace_bytes = 0

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, Shape] = {}
        self._pointers: Mapping[str, int] = {}
        self._pool = torch.cuda.MemPool() if engine.on_gpu else None  # a graph keeps addresses of what is allocated

    def bind(self, profile: int, input_shapes: Mapping[str, Shape], stream: int) -> Mapping[str, Shape]:
        """Run the module on zeros, which warms it up too, and return the outputs' shapes."""
        engine = self._engine
        where = "cuda" if engine.on_gpu else "cpu"
        zeros = []
        for name in engine.inputs:
            zero = torch.zeros(input_shapes[name], dtype=getattr(torch, engine.tensors[name].element), device=where)
            last = engine.tensors[name].layout == "channels_last"
            zeros.append(zero.contiguous(memory_format=torch.channels_last) if last else zero)
        with self._on(stream):
            for _ in range(_WARM_UP if engine.on_gpu else 1):
                made = engine.network(*zeros)
        outputs = {name: tuple(tensor.shape) for name, tensor in zip(engine.outputs, made, strict=True)}
        self._shapes = {**input_shapes, **outputs}
        return outputs

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        """Run the module on the stream and copy its outputs to their addresses."""
        engine, self._pointers = self._engine, pointers
        views = {name: self._view(name, pointer) for name, pointer in pointers.items()}
        with self._on(stream):
            made = engine.network(*(views[name] for name in engine.inputs))
            for name, tensor in zip(engine.outputs, made, strict=True):
                views[name].copy_(tensor)

    def report_layers(self, report: LayerReport) -> None:
        """Report nothing: a module has no layers to tell."""

    def is_capturable(self, stream: int) -> bool:
        """Run once more, for each thread has its own handles of cuBLAS and cuDNN, and return True.

        What PyTorch allocates comes from a pool of this context's own.
        """
        if self._pointers:
            self.enqueue(self._pointers, 0, stream)
        return True

    def close(self) -> None:
        """Release the pool."""
        self._pool = None

    def _on(self, stream: int) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        if self._pool is not None:
            stack.enter_context(torch.cuda.stream(torch.cuda.ExternalStream(stream)))
            stack.enter_context(torch.cuda.use_mem_pool(self._pool))
        return stack

    def _view(self, name: str, pointer: int) -> Tensor:
        """Return the tensor (N, C, H, W) at an address, whatever its layout."""
        tensor, shape = self._engine.tensors[name], self._shapes[name]
        last = tensor.layout == "channels_last"
        lying = (shape[0], *shape[2:], shape[1]) if last else shape
        size = math.prod(shape) * ELEMENT_DTYPES[tensor.element].itemsize
        raw = _bytes_on_gpu(pointer, size) if self._engine.on_gpu else _bytes_on_host(pointer, size)
        view = raw.view(getattr(torch, tensor.element)).reshape(lying)
        return view.movedim(-1, 1) if last else view


class FlattenedLast(nn.Module):
    """A box network whose head begins with a fully connected layer, for pooled features that lie channels-last.

    The layer's columns are permuted, so that nothing is transposed.

    Args:
        network: pooled (M, C, h, w) -> class logits, box deltas, with a ``TwoMLPHead`` of torchvision.
        first: its first layer, which is changed.
        channels: C.
    """

    def __init__(self, network: nn.Module, first: nn.Linear, channels: int) -> None:
        super().__init__()
        self.network = network
        columns = first.weight.detach().unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
        first.weight = nn.Parameter(columns.contiguous(), requires_grad=False)

    def forward(self, pooled: Tensor) -> Any:
        """Flatten cell by cell, which is a view of channels-last memory, and run the network."""
        return self.network(pooled.movedim(1, -1).flatten(1)[:, :, None, None])


class _Interface:
    def __init__(self, pointer: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (pointer, False),
            "strides": None,
            "version": 3,
        }


def _bytes_on_gpu(pointer: int, size: int) -> Tensor:
    return torch.as_tensor(_Interface(pointer, size), device="cuda")


def _bytes_on_host(pointer: int, size: int) -> Tensor:
    return torch.frombuffer((ctypes.c_char * size).from_address(pointer), dtype=torch.uint8)
