"""Loads and launches kernels with the CUDA driver, in the context that is current; nothing waits or allocates.

The context may be PyCUDA's own, or the primary one of PyTorch and CuPy; none is created or switched here. Code is
loaded as a context-independent library, so one loaded kernel serves every context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

from frcnn.errors import KernelError
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.kernel import Kernel, Launch
from frcnn.spec.supported_gpus import architecture_of

_NO_CONTEXT: Final = (
    "make one first: torch.cuda.init() and a tensor on the GPU, cupy.cuda.Device().use(), or "
    "pycuda.autoinit / pycuda.autoprimaryctx"
)
_HINTS: Final = {
    "CUDA_ERROR_NOT_INITIALIZED": _NO_CONTEXT,
    "CUDA_ERROR_INVALID_CONTEXT": "stream and current context must belong together; " + _NO_CONTEXT,
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "the stream outlived its context; " + _NO_CONTEXT,
    "CUDA_ERROR_INVALID_HANDLE": "the stream must be alive and belong to the current context",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "load it for the architecture of the GPU that is current",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is older than the compiler: CUDA 13 needs driver r580 or later",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "load operators before the capture begins",
}


class Driver(Protocol):
    """The driver interface that launches need."""

    def architecture(self) -> str:
        """Return ``sm_NN`` of the current context's device."""

    def is_reachable(self, pointer: int) -> bool:
        """Return whether an address is memory of the current context's device."""

    def load(self, kernel: Kernel, code: bytes) -> Any:
        """Return a handle of the kernel in this machine code or PTX."""

    def launch(self, handle: Any, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        """Launch a loaded kernel; ``pointers`` are inputs, then outputs, and no number of the grid is 0."""


class CudaDriver:
    """NVIDIA's driver, through ``cuda.bindings``; loaded on first use. Methods without a context raise KernelError."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, bytes], Any] = {}

    def architecture(self) -> str:
        """Return ``sm_NN`` of the current context's device."""
        return architecture_of(compute_capability(call_driver, self._device()))

    def is_reachable(self, pointer: int) -> bool:
        """Return whether an address is memory of the current context's device, managed memory included."""
        driver = import_driver()
        status, device = driver.cuPointerGetAttribute(
            driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer
        )
        return bool(status == driver.CUresult.CUDA_SUCCESS and int(device) == int(self._device()))

    def load(self, kernel: Kernel, code: bytes) -> Any:
        """Return a handle of the kernel in this code, loaded once a process.

        The kernel is also loaded into the current context, so that its first launch there can be captured.
        """
        self._device()
        key = (kernel.entry, code)
        handle = self._loaded.get(key)
        if handle is None:
            library = call_driver("cuLibraryLoadData", code, [], [], 0, [], [], 0)
            handle = self._loaded[key] = call_driver("cuLibraryGetKernel", library, kernel.entry.encode())
        call_driver("cuFuncLoad", call_driver("cuKernelGetFunction", handle))
        return handle

    def launch(self, handle: Any, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        """Launch a loaded kernel in the current context; the driver may also report an error of an earlier launch."""
        count = len(pointers) - len(launch.output_shapes)
        values: list[Any] = [ctypes.c_void_p(pointer) for pointer in pointers[:count]]
        values += [ctypes.c_int32(number) for number in launch.integers]
        values += [ctypes.c_void_p(pointer) for pointer in pointers[count:]]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        # the driver takes a CUkernel for a CUfunction, and means the one of the current context
        function = import_driver().CUfunction(int(handle))
        call_driver("cuLaunchKernel", function, *launch.grid, *launch.block, 0, stream, ctypes.addressof(addresses), 0)

    def _device(self) -> Any:
        if int(call_driver("cuCtxGetCurrent")) == 0:
            raise KernelError("no CUDA context is current on this thread", hint=_NO_CONTEXT)
        return call_driver("cuCtxGetDevice")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedKernel:
    """A kernel that can be launched: the driver that loaded it, and the driver's handle for it."""

    kernel: Kernel
    handle: Any
    driver: Driver

    def launch(self, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        """Launch it in the current context on a CUstream, as ``kernel.bind`` returned it for the shapes.

        ``pointers`` are device addresses of the inputs, then of the outputs, multiples of 16 bytes; only their number
        is checked.
        """
        expected = len(self.kernel.inputs) + len(self.kernel.outputs)
        if len(pointers) != expected:
            raise KernelError(f"{self.kernel.entry} takes {expected} pointers, got {len(pointers)}")
        if 0 not in launch.grid:
            self.driver.launch(self.handle, launch, pointers, stream)


@cache
def cuda_driver() -> CudaDriver:
    """Return the one driver of this process, without initialising it."""
    return CudaDriver()


def compute_capability(call: Callable[..., Any], device: Any) -> str:
    """Return a device's compute capability, like ``"8.9"``; ``call`` returns the result of a driver function."""
    attribute = import_driver().CUdevice_attribute
    major = call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return f"{int(major)}.{int(minor)}"


def ask_driver(name: str, *arguments: Any) -> tuple[str, tuple[Any, ...]]:
    """Call a driver function; return the name of its status and its results, or raise KernelError without a driver."""
    function: Callable[..., tuple[Any, ...]] = getattr(import_driver(), name)
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # cuda-pathfinder found no driver, or it is too old for this function
        raise KernelError(
            f"the CUDA driver cannot be used ({name}): {error}",
            hint="install NVIDIA's driver, r580 or later for CUDA 13",
        ) from error
    return str(status.name), tuple(results)


def call_driver(name: str, *arguments: Any) -> Any:
    """Call a driver function and return its result, if it has one; raise KernelError where it fails."""
    status, results = ask_driver(name, *arguments)
    if status != "CUDA_SUCCESS":
        raise KernelError(f"the CUDA driver's {name} returned {status}", hint=_HINTS.get(status, ""))
    return results[0] if results else None
