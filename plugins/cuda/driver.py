"""The CUDA driver as direct launches need it: load code, launch it, and nothing that waits or allocates.

Whatever context is current on the calling thread is used, whoever made it: PyCUDA's own, or the primary one of
PyTorch and CuPy. None is ever made or switched here. Code is loaded as a context-independent library, so that one
loaded kernel serves every context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

from frcnn.errors import KernelError
from frcnn.plugins.cuda.compiler import CompiledKernel
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.kernel import Kernel, Launch

__all__ = ["CudaDriver", "Driver", "LoadedKernel", "ask_driver", "cuda_driver", "load_kernel"]

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
    """What a direct launch asks of a driver."""

    def architecture(self) -> str:
        """Return ``sm_NN`` of the current context's device."""

    def is_reachable(self, pointer: int) -> bool:
        """Return whether an address is memory of the current context's device."""

    def load(self, kernel: Kernel, code: bytes) -> Any:
        """Return a handle of the kernel in this machine code or PTX."""

    def launch(self, handle: Any, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        """Launch a loaded kernel: inputs' pointers, then outputs', the launch's integers between them.

        Args:
            handle: what :meth:`load` returned.
            launch: geometry and integers; no 0 in its grid.
            pointers: inputs, then outputs.
            stream: a CUstream.
        """


class CudaDriver:
    """NVIDIA's driver, through ``cuda.bindings``; looked for when first used."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, bytes], Any] = {}

    def architecture(self) -> str:
        """Return ``sm_NN`` of the current context's device.

        Raises:
            KernelError: no context is current on this thread.
            MissingDependencyError: ``cuda-bindings`` is not installed.
        """
        attributes = import_driver().CUdevice_attribute
        device = self._device()
        major, minor = (
            _call("cuDeviceGetAttribute", attribute, device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return f"sm_{major}{minor}"

    def is_reachable(self, pointer: int) -> bool:
        """Return whether an address is memory of the current context's device; managed memory is, too.

        Raises:
            KernelError: no context is current on this thread.
        """
        driver = import_driver()
        status, device = driver.cuPointerGetAttribute(
            driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer
        )
        return bool(status == driver.CUresult.CUDA_SUCCESS and int(device) == int(self._device()))

    def load(self, kernel: Kernel, code: bytes) -> Any:
        """Return a handle of the kernel in this code; it is loaded once a process.

        The kernel is also made ready in the current context, so that its first launch there can be captured.

        Raises:
            KernelError: no context is current, or the driver refuses the code.
        """
        self._device()
        key = (kernel.entry, code)
        handle = self._loaded.get(key)
        if handle is None:
            library = _call("cuLibraryLoadData", code, [], [], 0, [], [], 0)
            handle = self._loaded[key] = _call("cuLibraryGetKernel", library, kernel.entry.encode())
        _call("cuFuncLoad", _call("cuKernelGetFunction", handle))
        return handle

    def launch(self, handle: Any, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        """Launch a loaded kernel in the current context; see :class:`Driver`.

        Raises:
            KernelError: the driver refuses, or reports what an earlier launch did.
        """
        count = len(pointers) - len(launch.output_shapes)
        values: list[Any] = [ctypes.c_void_p(pointer) for pointer in pointers[:count]]
        values += [ctypes.c_int32(number) for number in launch.integers]
        values += [ctypes.c_void_p(pointer) for pointer in pointers[count:]]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        # a CUkernel may stand where a CUfunction is asked for: it is then that of the current context
        function = import_driver().CUfunction(int(handle))
        _call("cuLaunchKernel", function, *launch.grid, *launch.block, 0, stream, ctypes.addressof(addresses), 0)

    def _device(self) -> Any:
        if int(_call("cuCtxGetCurrent")) == 0:
            raise KernelError("no CUDA context is current on this thread", hint=_NO_CONTEXT)
        return _call("cuCtxGetDevice")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedKernel:
    """A kernel that can be launched.

    Attributes:
        kernel: what it is.
        handle: the driver's name for it.
        driver: who launches it.
    """

    kernel: Kernel
    handle: Any
    driver: Driver

    def launch(self, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        """Launch it in the current context.

        Nothing is checked but the number of pointers, nothing allocated, nothing waited for.

        Args:
            launch: what ``kernel.bind`` returns for the shapes.
            pointers: device addresses of the inputs, then of the outputs, each a multiple of 16 bytes.
            stream: a CUstream; 0 is the legacy default stream.

        Raises:
            KernelError: too few or too many pointers, or the driver refuses.
        """
        expected = len(self.kernel.inputs) + len(self.kernel.outputs)
        if len(pointers) != expected:
            raise KernelError(f"{self.kernel.entry} takes {expected} pointers, got {len(pointers)}")
        if 0 not in launch.grid:
            self.driver.launch(self.handle, launch, pointers, stream)


@cache
def cuda_driver() -> CudaDriver:
    """Return the one driver of this process; nothing is initialised by that."""
    return CudaDriver()


def load_kernel(compiled: CompiledKernel, *, driver: Driver | None = None) -> LoadedKernel:
    """Load a compiled kernel, once a process, and make it ready in the current context.

    Args:
        compiled: for the current device, or PTX.
        driver: None: NVIDIA's.

    Raises:
        KernelError: no context is current, or the driver refuses the code.
        MissingDependencyError: ``cuda-bindings`` is not installed.
    """
    chosen = cuda_driver() if driver is None else driver
    return LoadedKernel(kernel=compiled.kernel, handle=chosen.load(compiled.kernel, compiled.code), driver=chosen)


def ask_driver(name: str, *arguments: Any) -> tuple[str, tuple[Any, ...]]:
    """Call a function of the driver and return its status by name and its results.

    Raises:
        KernelError: there is no driver, or it is too old for this function.
        MissingDependencyError: ``cuda-bindings`` is not installed.
    """
    function: Callable[..., tuple[Any, ...]] = getattr(import_driver(), name)
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # cuda-pathfinder found no driver, or it is too old for this function
        raise KernelError(
            f"the CUDA driver cannot be used ({name}): {error}",
            hint="install NVIDIA's driver, r580 or later for CUDA 13",
        ) from error
    return str(status.name), tuple(results)


def _call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver and return its one result, if it has one.

    Raises:
        KernelError: it fails, or there is no driver.
    """
    status, results = ask_driver(name, *arguments)
    if status != "CUDA_SUCCESS":
        raise KernelError(f"the CUDA driver's {name} answered {status}", hint=_HINTS.get(status, ""))
    return results[0] if results else None
