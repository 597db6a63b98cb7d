"""Direct launches without a GPU: a driver that runs kernels on the CPU, and arrays that look like a GPU's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from frcnn.plugins.cuda.driver import LoadedKernel
from frcnn.plugins.cuda.launch import LoadedOperator
from frcnn.plugins.kernel import Kernel, Launch
from support.simt import launch_on_host

TYPESTR = {
    torch.float32: "<f4",
    torch.float64: "<f8",
    torch.float16: "<f2",
    torch.bfloat16: "<V2",
    torch.int32: "<i4",
    torch.int64: "<i8",
    torch.uint8: "|u1",
}


class HostDriver:
    """Runs kernels through the SIMT shim, and records the calls."""

    def __init__(self, architecture: str = "sm_90") -> None:
        self.device_architecture = architecture
        self.codes: list[bytes] = []
        self.launches: list[tuple[str, Launch, int]] = []
        self.unreachable: set[int] = set()

    def architecture(self) -> str:
        return self.device_architecture

    def is_reachable(self, pointer: int) -> bool:
        return pointer not in self.unreachable

    def load(self, kernel: Kernel, code: bytes) -> Any:
        self.codes.append(code)
        return kernel

    def launch(self, handle: Any, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        self.launches.append((handle.entry, launch, stream))
        launch_on_host(handle, launch, pointers)


class HostArray:
    """A CPU tensor with the array interface of PyCUDA's and CuPy's arrays."""

    def __init__(self, tensor: Tensor, *, read_only: bool = False, strides: bool = True, **more: Any) -> None:
        self.tensor = tensor
        contiguous = tensor.is_contiguous() and not strides
        self.__cuda_array_interface__ = {
            "shape": tuple(tensor.shape),
            "typestr": TYPESTR[tensor.dtype],
            "data": (tensor.data_ptr() if tensor.numel() else 0, read_only),
            "strides": None if contiguous else tuple(step * tensor.element_size() for step in tensor.stride()),
            "version": 3,
            **more,
        }


def operator_on_host(kernels: Sequence[Kernel], driver: HostDriver, name: str = "operator") -> LoadedOperator:
    """Return an operator whose kernels run on the CPU; nothing is compiled for a GPU."""
    loaded = [LoadedKernel(kernel=kernel, handle=driver.load(kernel, b""), driver=driver) for kernel in kernels]
    return LoadedOperator(name, loaded)
