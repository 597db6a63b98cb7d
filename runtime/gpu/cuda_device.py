"""One NVIDIA GPU through the driver API: memory, streams, copies and graphs.

The context is the device's primary one, which PyTorch, CuPy, TensorRT and ``pycuda.autoprimaryctx`` share; unless
another is current on the thread that makes the device, like that of ``pycuda.autoinit``: then it is that one. A context
of somebody else is never destroyed. Importing this module initialises nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.cuda.driver import ask_driver, compute_capability, cuda_driver
from frcnn.runtime.gpu.cuda_calls import call_cuda, cuda_hint, release_cuda
from frcnn.spec.supported_gpus import architecture_of

_OK: Final = "CUDA_SUCCESS"
_OUT_OF_MEMORY: Final = "CUDA_ERROR_OUT_OF_MEMORY"


class _Resource:
    """Something of the driver's, released once."""

    _release: str

    def __init__(self, device: CudaDevice, handle: Any) -> None:
        self._device = device
        self._handle = handle

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._device.activate()
            release_cuda(self._release, handle)


class _DeviceMemory(_Resource):
    """Device memory; the driver aligns it to 256 bytes at least."""

    _release = "cuMemFree"

    def __init__(self, device: CudaDevice, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.pointer = int(device.call_for_memory("cuMemAlloc", size_bytes))
        super().__init__(device, self.pointer)

    def close(self) -> None:
        self.pointer = 0
        super().close()


class _PinnedMemory(_Resource):
    """Page-locked host memory, usable in every context."""

    _release = "cuMemFreeHost"

    def __init__(self, device: CudaDevice, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        portable = import_driver().CU_MEMHOSTALLOC_PORTABLE
        self.pointer = int(device.call_for_memory("cuMemHostAlloc", size_bytes, portable))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(self.pointer))
        super().__init__(device, self.pointer)

    def close(self) -> None:
        self.pointer, self.array = 0, np.empty(0, np.uint8)
        super().close()


class _CudaGraph(_Resource):
    """An instantiated graph."""

    _release = "cuGraphExecDestroy"

    def launch(self, stream: int) -> None:
        call_cuda("cuGraphLaunch", self._handle, stream)


class _CudaEvent(_Resource):
    """A point in a stream's work."""

    _release = "cuEventDestroy"

    def __init__(self, device: CudaDevice) -> None:
        super().__init__(device, call_cuda("cuEventCreate", int(import_driver().CUevent_flags.CU_EVENT_DEFAULT)))

    def record(self, stream: int) -> None:
        call_cuda("cuEventRecord", self._handle, stream)

    def ms_since(self, earlier: _CudaEvent) -> float:
        return float(call_cuda("cuEventElapsedTime", earlier._handle, self._handle))


class CudaDevice:
    """A GPU by its number in the order of ``CUDA_VISIBLE_DEVICES``; see :class:`~frcnn.runtime.gpu.device.Device`."""

    def __init__(self, index: int = 0) -> None:
        call_cuda("cuInit", 0)
        count = int(call_cuda("cuDeviceGetCount"))
        if not 0 <= index < count:
            raise ArtifactError(
                f"there is no GPU {index}; CUDA sees {count}", hint=cuda_hint("CUDA_ERROR_INVALID_DEVICE")
            )
        self.index = index
        self._handle = call_cuda("cuDeviceGet", index)
        self.name = bytes(call_cuda("cuDeviceGetName", 256, self._handle)).split(b"\0")[0].decode()
        self.compute_capability = compute_capability(call_cuda, self._handle)
        self.architecture = architecture_of(self.compute_capability)
        self.driver = cuda_driver()
        self._idle_events: list[Any] = []
        self._is_open = True
        self._context, self.is_primary_context = self._choose_context()
        self.activate()

    def _choose_context(self) -> tuple[Any, bool]:
        """Return the context to work in, and whether it is the device's primary one, to which we hold a reference then.

        The CUDA runtime API works in the primary context only.
        """
        current = call_cuda("cuCtxGetCurrent")
        if int(current) and int(call_cuda("cuCtxGetDevice")) == int(self._handle):
            _flags, is_active = call_cuda("cuDevicePrimaryCtxGetState", self._handle)
            if not is_active:
                return current, False
            primary = call_cuda("cuDevicePrimaryCtxRetain", self._handle)
            if int(primary) == int(current):
                return primary, True
            call_cuda("cuDevicePrimaryCtxRelease", self._handle)
            return current, False
        return call_cuda("cuDevicePrimaryCtxRetain", self._handle), True

    def activate(self) -> None:
        """Make its context current on the calling thread, unless it is."""
        if not self._is_open:
            raise ArtifactError("the GPU was closed", hint="load the detector again")
        if int(call_cuda("cuCtxGetCurrent")) != int(self._context):
            call_cuda("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Return the bytes of free device memory."""
        return int(call_cuda("cuMemGetInfo")[0])

    def call_for_memory(self, name: str, size_bytes: int, *more: Any) -> Any:
        """Call a function that allocates; name the bytes that were needed if there is not enough."""
        if size_bytes < 1:
            raise ArtifactError(f"expected to allocate 1 byte or more, got {size_bytes}")
        try:
            return call_cuda(name, size_bytes, *more)
        except ArtifactError as error:
            if _OUT_OF_MEMORY not in error.message:
                raise
            free = "unknown"
            with suppress(ArtifactError):
                free = f"{self.free_bytes():,} bytes"
            what = "pinned host memory" if name == "cuMemHostAlloc" else "device memory"
            raise ArtifactError(
                f"{self.name}: not enough {what}: {size_bytes:,} bytes needed; free on the GPU: {free}",
                hint="close what else uses the GPU (nvidia-smi), or use smaller batches, canvases or fewer threads",
            ) from error

    def allocate(self, size_bytes: int) -> _DeviceMemory:
        """Allocate device memory."""
        return _DeviceMemory(self, size_bytes)

    def allocate_pinned(self, size_bytes: int) -> _PinnedMemory:
        """Allocate pinned host memory."""
        return _PinnedMemory(self, size_bytes)

    def create_stream(self) -> int:
        """Return a new stream, which does not synchronise with the legacy default stream."""
        return int(call_cuda("cuStreamCreate", int(import_driver().CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream of :meth:`create_stream`."""
        release_cuda("cuStreamDestroy", stream)

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy between any two of pinned host memory and device memory."""
        if size_bytes:
            call_cuda("cuMemcpyAsync", destination, source, size_bytes, stream)

    def create_event(self) -> _CudaEvent:
        """Return an event that measures time."""
        return _CudaEvent(self)

    def wait_for(self, stream: int, other: int) -> None:
        """Let later work on ``stream`` wait for the work that is on ``other`` now."""
        if stream == other:
            return
        # a wait refers to what was recorded when it was made, so the event can be reused at once
        try:
            event = self._idle_events.pop()
        except IndexError:
            disable_timing = int(import_driver().CUevent_flags.CU_EVENT_DISABLE_TIMING)
            event = call_cuda("cuEventCreate", disable_timing)
        try:
            call_cuda("cuEventRecord", event, other)
            call_cuda("cuStreamWaitEvent", stream, event, 0)
        finally:
            self._idle_events.append(event)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream's work is done; raise if it failed."""
        call_cuda("cuStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], None]) -> _CudaGraph:
        """Capture what ``work`` enqueues, without running it, and send the graph to the GPU.

        Meanwhile other threads may do what a capture forbids, like allocating. An exception of ``work`` ends the
        capture.
        """
        mode = import_driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call_cuda("cuStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:  # end the capture, so that the stream can be used again
            status, results = ask_driver("cuStreamEndCapture", stream)
            if status == _OK and results and int(results[0]):
                ask_driver("cuGraphDestroy", results[0])
            raise
        graph = call_cuda("cuStreamEndCapture", stream)
        try:
            executable = call_cuda("cuGraphInstantiate", graph, 0)
        finally:
            release_cuda("cuGraphDestroy", graph)
        captured = _CudaGraph(self, executable)
        try:
            call_cuda("cuGraphUpload", executable, stream)
        except BaseException:
            captured.close()
            raise
        return captured

    def close(self) -> None:
        """Release the device; memory, graphs and streams were closed before. A second call does nothing."""
        if not self._is_open:
            return
        with suppress(ArtifactError):  # a context that its owner destroyed took its events with it
            self.activate()
        self._is_open = False
        while self._idle_events:
            release_cuda("cuEventDestroy", self._idle_events.pop())
        if not self.is_primary_context:
            return
        release_cuda("cuDevicePrimaryCtxRelease", self._handle)
        _flags, is_active = call_cuda("cuDevicePrimaryCtxGetState", self._handle)
        if not is_active and int(call_cuda("cuCtxGetCurrent")) == int(self._context):
            call_cuda("cuCtxSetCurrent", 0)  # leave no dead context current
