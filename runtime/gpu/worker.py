"""A stream with its own arena of device memory, staging for pixels, and bound shapes.

A worker runs one batch at a time for one thread at a time. It allocates nothing for a shape that is among its last few,
unless the images are larger than before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ImageError
from frcnn.plugins.operator_plan import aligned
from frcnn.runtime.exits import finished_before_exit
from frcnn.runtime.gpu.device import Device, Memory, PinnedMemory
from frcnn.runtime.gpu.pipeline import Pipeline, PipelineKey, Warn
from frcnn.runtime.gpu.program import Program
from frcnn.runtime.images.image import DeviceImage
from frcnn.runtime.images.preprocess import Placed, Prepared, bfloat16_bits

MAX_PIPELINES: Final = 8
"""Shapes that stay bound in a worker: each has its engines' contexts and a captured graph."""

_STAGING_STEP_BYTES: Final = 1 << 20


class Worker:
    """Runs batches on a stream of its own; of the ``pipelines``, bound to shapes, the one used last is at the end."""

    def __init__(self, program: Program, device: Device, warn: Warn) -> None:
        self._program = program
        self._device = device
        self._warn = warn
        self._arena: Memory | None = None
        self._pinned_pixels: PinnedMemory | None = None
        self._device_pixels: Memory | None = None
        self.pipelines: OrderedDict[PipelineKey, Pipeline] = OrderedDict()
        self.stream = device.create_stream()

    @finished_before_exit()
    def enqueue(self, key: PipelineKey, profile: int, batch: Sequence[Placed], waits: Iterable[int]) -> Pipeline:
        """Enqueue a batch: :meth:`upload`, then launch the pipeline, which holds the outputs until the next batch."""
        pipeline = self.upload(key, profile, batch, waits)
        pipeline.launch(self.stream, self._warn)
        return pipeline

    def upload(self, key: PipelineKey, profile: int, batch: Sequence[Placed], waits: Iterable[int]) -> Pipeline:
        """Fill the pipeline of a shape with a batch; earlier work on the stream must be done.

        Args:
            key: the shape: the images' canvas, and a batch of their number or more.
            profile: the engines' profile that holds it.
            batch: images of one canvas, prepared alike. Those in host memory are copied before this returns, those
                in device memory must live and not change until the stream is done.
            waits: streams to wait for.
        """
        pipeline = self._pipeline(key, profile)
        for stream in waits:
            self._device.wait_for(self.stream, stream)
        if key.from_pixels:
            self._fill_table(pipeline, batch)
        else:
            _fill_images(pipeline.images, batch)
        pipeline.sizes[: len(batch)] = [item.resized for item in batch]
        pipeline.sizes[len(batch) :] = batch[0].resized  # rows beyond the images repeat the first
        return pipeline

    def close(self) -> None:
        """Wait for the stream and release everything."""
        with ExitStack() as stack:
            stack.callback(self._device.destroy_stream, self.stream)
            for memory in (self._arena, self._pinned_pixels, self._device_pixels):
                if memory is not None:
                    stack.callback(memory.close)
            for pipeline in self.pipelines.values():
                stack.callback(pipeline.close)
            stack.callback(self._device.synchronize, self.stream)
            stack.callback(self._device.activate)
            self._arena = self._pinned_pixels = self._device_pixels = None
            self.pipelines = OrderedDict()

    def _pipeline(self, key: PipelineKey, profile: int) -> Pipeline:
        """Return the pipeline of a shape, bound now if it is not among the last few."""
        pipeline = self.pipelines.get(key)
        if pipeline is not None:
            self.pipelines.move_to_end(key)
            return pipeline
        while len(self.pipelines) >= MAX_PIPELINES:
            _, oldest = self.pipelines.popitem(last=False)
            oldest.close()
        pipeline = Pipeline(self._program, self._device, key, profile, self.stream)
        try:
            pipeline.place_in(self._arena_of(pipeline.arena_bytes))
        except BaseException:
            pipeline.close()
            raise
        self.pipelines[key] = pipeline
        return pipeline

    def _arena_of(self, size_bytes: int) -> int:
        """Return the arena's address, growing it if necessary, which drops everything bound to the old one."""
        if self._arena is None or self._arena.size_bytes < size_bytes:
            while self.pipelines:
                self.pipelines.popitem()[1].close()
            old, self._arena = self._arena, None  # forgotten first: memory that cannot be freed must not be used again
            if old is not None:
                old.close()
            self._arena = self._device.allocate(size_bytes)
        return self._arena.pointer

    def _fill_table(self, pipeline: Pipeline, batch: Sequence[Placed]) -> None:
        """Upload the images in host memory, and write the addresses of all into the table."""
        table, on_host, end = pipeline.table, [], 0
        for row, item in enumerate(batch):
            image = item.image
            if isinstance(image, DeviceImage):
                if not self._device.driver.is_reachable(image.pointer):
                    raise ImageError(
                        f"{image.name}: the array lies in memory that the detector's GPU cannot reach",
                        hint="copy it to the GPU that the detector was loaded on",
                    )
                table[row] = (image.pointer, *image.size, *image.strides, *item.resized)
            else:
                stage = staged(image.uint8())
                on_host.append((row, item, stage, end))
                end += aligned(stage.pixels.size)
        if on_host:
            pinned, device = self._staging(end)
            for row, item, stage, start in on_host:
                target = pinned.array[start : start + stage.pixels.size].reshape(stage.pixels.shape)
                np.copyto(target, stage.pixels)
                address = device.pointer + start + stage.offset
                table[row] = (address, *item.image.size, *stage.strides, *item.resized)
            self._device.copy(device.pointer, pinned.pointer, end, self.stream)
        table[len(batch) :] = table[0]

    def _staging(self, size_bytes: int) -> tuple[PinnedMemory, Memory]:
        """Return pinned and device memory for pixels, at least ``size_bytes`` of each."""
        if self._device_pixels is None or self._device_pixels.size_bytes < size_bytes:
            old, self._pinned_pixels, self._device_pixels = (self._pinned_pixels, self._device_pixels), None, None
            with ExitStack() as stack:
                for memory in old:
                    if memory is not None:
                        stack.callback(memory.close)
            wanted = -(-size_bytes // _STAGING_STEP_BYTES) * _STAGING_STEP_BYTES
            self._pinned_pixels = self._device.allocate_pinned(wanted)
            self._device_pixels = self._device.allocate(wanted)
        assert self._pinned_pixels is not None
        return self._pinned_pixels, self._device_pixels


def _fill_images(images: NDArray[np.generic], batch: Sequence[Placed]) -> None:
    """Write images that the CPU prepared in the type of the network's input."""
    for row, item in enumerate(batch):
        assert isinstance(item, Prepared)
        images[row] = bfloat16_bits(item.pixels) if images.dtype == np.uint16 else item.pixels
    images[len(batch) :] = images[0]


class Staged(NamedTuple):
    """An image's array with its axes in memory order, all forwards, grey ones with one channel.

    In a copy of it without gaps the first pixel's red channel is the byte ``offset``; ``strides`` are the bytes from a
    row, a column and a channel to the next.
    """

    pixels: NDArray[np.uint8]
    offset: int
    strides: tuple[int, int, int]


def staged(pixels: NDArray[np.uint8]) -> Staged:
    """Find the order in which a ``(H, W, 3)`` uint8 image with any strides can be copied fastest.

    The preprocessing kernel reads pixels by strides of any sign, so BGR, planar and grey images, crops and mirrored
    ones need no conversion.
    """
    if pixels.flags.c_contiguous:
        return Staged(pixels, 0, (3 * pixels.shape[1], 3, 1))
    if pixels.strides[2] == 0:  # grey, three times the same byte
        pixels = pixels[:, :, :1]
    order = sorted(range(3), key=lambda axis: -abs(pixels.strides[axis]))
    forwards = pixels[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in pixels.strides)]
    strides, offset, step = [0, 0, 0], 0, 1
    for axis in reversed(order):
        length = pixels.shape[axis]
        backwards = pixels.strides[axis] < 0
        strides[axis] = -step if backwards else step
        offset += step * (length - 1) if backwards else 0
        step *= length
    if pixels.shape[2] == 1:
        strides[2] = 0
    return Staged(forwards.transpose(order), offset, (strides[0], strides[1], strides[2]))
