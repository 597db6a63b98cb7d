"""Detections that stay in device memory: arrays that PyTorch, CuPy, Numba and PyCUDA read in place."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import FrcnnError, UsageError
from frcnn.runtime.detections import Detections
from frcnn.runtime.gpu.device import Device, Memory, Shape
from frcnn.spec import Size

_LEGACY_STREAM: Final = 1  # the CUDA array interface's name of stream 0


@dataclass(frozen=True, slots=True)
class Field:
    """An array in a block of memory, ``offset`` bytes from its beginning."""

    offset: int
    shape: Shape
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class DeviceKeeper:
    """Keeps a device open until its last output is released, then closes it.

    The memory of a released output is freed at the next call, not at once: Python may collect garbage while CUDA must
    not be called, as in the middle of a capture.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._lock = threading.RLock()  # the garbage collector may release an output while this thread holds the lock
        self._process = os.getpid()
        self._discarded: deque[Memory] = deque()
        self._outputs = 0
        self._closing = False
        self._closed = False

    def allocate(self, size_bytes: int) -> Memory:
        """Allocate memory for an output; the device must be active on this thread."""
        with self._lock:
            self._sweep()
            memory = self.device.allocate(size_bytes)
            self._outputs += 1
            return memory

    def discard(self, memory: Memory) -> None:
        """Take an output's memory back; in a forked process do nothing: the memory is the parent's."""
        if os.getpid() != self._process:
            return
        self._discarded.append(memory)
        if self._closing:
            with self._lock:
                self._sweep()

    def close(self) -> None:
        """Close the device, now or when the last output is released."""
        with self._lock:
            self._closing = True
            self._sweep()

    def _sweep(self) -> None:
        if self._discarded or self._closing:
            self.device.activate()
        while self._discarded:
            memory = self._discarded.popleft()
            self._outputs -= 1
            with suppress(FrcnnError):
                memory.close()
        if self._closing and self._outputs == 0 and not self._closed:
            self._closed = True
            self.device.close()


class DeviceOutput:
    """The network's output for a batch in device memory of its own, freed after the last array of it is gone.

    ``on_host`` waits for the network and returns the same arrays in host memory. Later work on ``stream`` finds the
    arrays complete; 0 is the legacy default stream.
    """

    def __init__(
        self,
        keeper: DeviceKeeper,
        memory: Memory,
        fields: Mapping[str, Field],
        *,
        on_host: Callable[[], Mapping[str, NDArray[Any]]],
        stream: int,
    ) -> None:
        self._memory = memory
        self._fields = fields
        self.on_host = on_host
        self.stream = stream
        # not at exit: the process returns all memory, and the driver may be gone before
        weakref.finalize(self, keeper.discard, memory).atexit = False

    def __reduce__(self) -> NoReturn:
        raise UsageError("detections in device memory cannot be pickled", hint="pickle what to_host() returns")

    def row(self, name: str, index: int) -> DeviceArray:
        """Return one image's part of an array."""
        whole = self._fields[name]
        row = Field(whole.offset, whole.shape[1:] or (1,), whole.dtype)
        pointer = self._memory.pointer + whole.offset + index * row.size_bytes
        return DeviceArray(pointer=pointer, shape=row.shape, dtype=row.dtype, owner=self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceArray:
    """An array in device memory, C order; read it by ``torch.as_tensor(array)`` or ``cupy.asarray(array)``.

    Attributes:
        pointer: Its address, for ``pycuda.gpuarray.GPUArray(array.shape, array.dtype, gpudata=array.pointer)``.
        shape: Its shape.
        dtype: Its NumPy type.
        owner: Keeps the memory alive.
    """

    pointer: int
    shape: Shape
    dtype: np.dtype[Any]
    owner: DeviceOutput = field(repr=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, with the stream whose later work finds the array complete."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.owner.stream or _LEGACY_STREAM,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceDetections:
    """The objects detected in one image, in device memory: K rows, of which the first ``num_detections`` are valid.

    Work on the stream of the call (the legacy default stream if none was given), or on a stream that waits for it,
    finds the arrays complete. Their memory is freed after the last of these objects is gone: keep one until the work
    that reads it is done.

    Attributes:
        num_detections: ``(1,)`` int32.
        boxes: ``(K, 4)`` float32 ``(x1, y1, x2, y2)`` in *canvas* pixels; multiply by ``to_image``.
        scores: ``(K,)`` float32 in [0, 1], descending.
        labels: ``(K,)`` int32 class indices. 0 is the background and never occurs.
        to_image: ``(4,)`` float32 in host memory, the factors of x1, y1, x2, y2 to pixels of the original image.
        image_size: ``(height, width)`` of the original image in pixels.
        source: The path of the image, or None if it was not a file.
        label_names: See ``Detections``.

    Example:
        >>> found = detector([frame], device_output=True, stream=torch.cuda.current_stream())[0]
        >>> boxes = torch.as_tensor(found.boxes) * torch.tensor(found.to_image, device="cuda")
        >>> found.to_host().class_names
        ['person']
    """

    num_detections: DeviceArray
    boxes: DeviceArray
    scores: DeviceArray
    labels: DeviceArray
    to_image: NDArray[np.float32]
    image_size: Size
    source: str | None = None
    label_names: tuple[str, ...] | None = field(default=None, repr=False)
    _index: int = field(repr=False)

    def to_host(self) -> Detections:
        """Wait for the network and return the detections in host memory, boxes in pixels of the original image.

        What was written into the device arrays since is not seen.

        Raises:
            ArtifactError: The network failed.
        """
        arrays = self.boxes.owner.on_host()
        rows = slice(int(arrays["num_detections"][self._index]))
        return Detections(
            boxes=arrays["boxes"][self._index, rows] * self.to_image,
            scores=arrays["scores"][self._index, rows],
            labels=arrays["labels"][self._index, rows],
            image_size=self.image_size,
            source=self.source,
            label_names=self.label_names,
        )
