"""Detections that stay in device memory: arrays that PyTorch, CuPy, Numba and PyCUDA read where they lie."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import FrcnnError
from frcnn.runtime.detections import Detections
from frcnn.runtime.gpu.device import Device, Memory, Shape
from frcnn.spec import Size

__all__ = ["DeviceArray", "DeviceDetections", "DeviceKeeper", "DeviceOutput", "Field"]

_LEGACY_STREAM: Final = 1  # what the CUDA array interface calls stream 0


@dataclass(frozen=True, slots=True)
class Field:
    """An array in a piece of memory.

    Attributes:
        offset: where it begins, in bytes.
        shape: its shape.
        dtype: its type.
    """

    offset: int
    shape: Shape
    dtype: np.dtype[Any]


class DeviceKeeper:
    """Keeps a device open until its last output is released.

    Memory of a released output is freed at the next call, not at once: the collector of garbage may come at a moment
    when CUDA must not be called, as in the middle of a capture.

    Args:
        device: what is closed at the end.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._lock = threading.RLock()  # the collector may release an output while this thread is in here
        self._process = os.getpid()
        self._discarded: deque[Memory] = deque()
        self._outputs = 0
        self._closing = False
        self._closed = False

    def allocate(self, size_bytes: int) -> Memory:
        """Allocate memory for an output; the device must be active on this thread.

        Raises:
            ArtifactError: there is not enough.
        """
        with self._lock:
            self._sweep()
            memory = self.device.allocate(size_bytes)
            self._outputs += 1
            return memory

    def discard(self, memory: Memory) -> None:
        """Take an output's memory back. In a process forked off, do nothing: the memory is the parent's."""
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
    """The answers to a batch in device memory of their own, which lives as long as anything of them does.

    Args:
        keeper: of the device.
        memory: where they lie.
        fields: the arrays in it.
        arrays: waits until they are there, and returns them in host memory, where they came down to as well.
        stream: the stream on which they are there in order; 0 is the legacy default stream.
    """

    def __init__(
        self,
        keeper: DeviceKeeper,
        memory: Memory,
        fields: Mapping[str, Field],
        *,
        arrays: Callable[[], Mapping[str, NDArray[Any]]],
        stream: int,
    ) -> None:
        self._memory = memory
        self._fields = fields
        self._arrays = arrays
        self.stream = stream
        # nothing is freed at exit: the process gives all back, and the driver may be gone before
        weakref.finalize(self, keeper.discard, memory).atexit = False

    def row(self, name: str, index: int) -> DeviceArray:
        """Return an image's part of an array."""
        place = self._fields[name]
        step = int(np.prod(place.shape[1:], dtype=np.int64)) * place.dtype.itemsize
        return DeviceArray(
            pointer=self._memory.pointer + place.offset + index * step,
            shape=place.shape[1:] or (1,),
            dtype=place.dtype,
            owner=self,
        )

    def on_host(self) -> Mapping[str, NDArray[Any]]:
        """Wait for the answers of the batch and return them in host memory.

        Raises:
            ArtifactError: the network failed.
        """
        return self._arrays()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceArray:
    """An array in device memory, C order; read it by ``torch.as_tensor(array)`` or ``cupy.asarray(array)``.

    Attributes:
        pointer: its address, for ``pycuda.gpuarray.GPUArray(array.shape, array.dtype, gpudata=array.pointer)``.
        shape: its shape.
        dtype: its NumPy type.
        owner: keeps the memory alive.
    """

    pointer: int
    shape: Shape
    dtype: np.dtype[Any]
    owner: DeviceOutput = field(repr=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, with the stream on which the array is there in order."""
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
    """The objects found in one image, in device memory, K rows of which the first ``num_detections`` are meant.

    The arrays are there for work that is put on the stream of the call (the legacy default stream where none was
    given) or waits for it. The memory is freed after the last of these objects is gone; keep one until the work that
    reads it is done.

    Attributes:
        num_detections: (1,) int32.
        boxes: (K, 4) float32, x1, y1, x2, y2 in *canvas* pixels: multiply by ``to_image``.
        scores: (K,) float32 in [0, 1], descending.
        labels: (K,) int32 class indices; 0 is the background and never occurs.
        to_image: (4,) float32 in host memory: factors of x1, y1, x2, y2 to the image's own pixels.
        image_size: (height, width) of the image in pixels.
        source: the image's path, or None where it was no file.
        label_names: see ``Detections``.
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

    @classmethod
    def of(
        cls,
        output: DeviceOutput,
        index: int,
        *,
        to_image: NDArray[np.float32],
        image_size: Size,
        source: str | None,
        label_names: tuple[str, ...] | None,
    ) -> DeviceDetections:
        """Return an image's part of a batch's answers."""
        return cls(
            num_detections=output.row("num_detections", index),
            boxes=output.row("boxes", index),
            scores=output.row("scores", index),
            labels=output.row("labels", index),
            to_image=to_image,
            image_size=image_size,
            source=source,
            label_names=label_names,
            _index=index,
        )

    def to_host(self) -> Detections:
        """Wait for the answer and return it in host memory, boxes in the image's own pixels.

        What was written into the arrays since is not seen.

        Raises:
            ArtifactError: the network failed.
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
