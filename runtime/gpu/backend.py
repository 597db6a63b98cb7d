"""Run an engine artifact on a GPU: any thread may call, batches may overlap, answers may stay on the device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

import numpy as np

from frcnn.errors import FrcnnError, UsageError
from frcnn.log import remark
from frcnn.runtime.device_detections import DeviceDetections, DeviceKeeper, DeviceOutput
from frcnn.runtime.gpu.device import Device, Engine
from frcnn.runtime.gpu.pipeline import Pipeline, PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.runtime.gpu.running import RunningBatch
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.gpu.worker_pool import WorkerPool, closed_error, forked_error
from frcnn.runtime.images.canvases import Canvases, EngineCanvases
from frcnn.runtime.images.device_images import DeviceImage, device_image, is_device_array
from frcnn.runtime.images.image import RGBImage, as_image, is_tensor
from frcnn.runtime.images.preprocess import Placed, Prepared, factors_to_image, place, with_pixels
from frcnn.spec.engine import EngineManifest

__all__ = ["DEFAULT_WORKERS", "EngineBackend"]

DEFAULT_WORKERS: Final = 2
"""Batches that may be on the GPU at once. Two overlap one's copies with the other's work; each further one costs an
arena and engine contexts again, and gains where batches are too small to fill the GPU."""


class EngineBackend:
    """A ``Backend`` on an engine artifact.

    It owns the device and the engines from here on, also where the constructor fails.

    Args:
        manifest: what the artifact says of itself.
        read_part: returns a part of it.
        device: what it runs on.
        engines: its engines, by part.
        workers: the most batches that run at once; see :data:`DEFAULT_WORKERS`.

    Raises:
        ArtifactError: the artifact's kernels are not those of this frcnn.
        KernelError: the driver refuses a kernel.
        UsageError: less than one worker.
    """

    def __init__(
        self,
        manifest: EngineManifest,
        read_part: Callable[[str], bytes],
        device: Device,
        engines: Mapping[str, Engine],
        *,
        workers: int = DEFAULT_WORKERS,
    ) -> None:
        self._keeper = DeviceKeeper(device)
        self._device = device
        self._engines = dict(engines)
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        self._manifest = manifest
        self._engine_canvases = EngineCanvases(manifest)
        self.canvases: Canvases = self._engine_canvases
        self.batches_in_flight = workers
        self._pool = WorkerPool(self._make_worker, workers)
        try:
            if workers < 1:
                raise UsageError(f"workers: expected 1 or more, got {workers}")
            device.activate()
            self._program = load_program(manifest, read_part, self._engines, device)
        except BaseException:
            with suppress(FrcnnError):
                self.close()
            raise

    def place(self, image: object, *, name: str, max_pixels: int, ahead: bool) -> Placed:
        """Turn what a caller handed in into an image on a canvas; see ``Backend.place``.

        Images of bytes are left as they are, for the GPU to resize; floating ones are prepared here, on the CPU.
        """
        self._check()
        transform = self._manifest.source.model.transform
        raw_image = _image(image, name, max_pixels, ahead=ahead)
        placed = place(raw_image, transform, self.canvases)
        if isinstance(raw_image, RGBImage) and raw_image.pixels.dtype != np.uint8:
            return with_pixels(placed, transform)
        return placed

    def submit(self, batch: Sequence[Placed], *, stream: int | None = None) -> RunningBatch:
        """Begin to detect; see ``Backend.submit``."""
        return self._submit(batch, stream)

    def submit_to_device(self, batch: Sequence[Placed], *, stream: int | None = None) -> list[DeviceDetections]:
        """Detect and leave the answers in device memory; see ``Backend.submit_to_device``.

        Their memory is allocated here, and the caller's stream (the legacy default stream where there is none) is made
        to wait for the work.
        """
        running = self._submit(batch, stream, on_device=True)
        output = running.output
        assert output is not None
        return [
            DeviceDetections.of(
                output,
                index,
                to_image=factors_to_image(item),
                image_size=item.image.size,
                source=item.image.source,
                label_names=self._manifest.source.model.labels,
            )
            for index, item in enumerate(batch)
        ]

    def close(self) -> None:
        """Wait for what runs, then release everything; more than once does nothing.

        Answers that are still on the device stay valid, and keep the device open, until they are released. In a
        process forked off nothing happens: all belongs to the parent.

        Raises:
            ArtifactError: something could not be released cleanly; the rest was nevertheless.
        """
        if os.getpid() != self._process:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._device.activate()
            with ExitStack() as stack:
                stack.callback(self._keeper.close)
                for engine in self._engines.values():
                    stack.callback(engine.close)
                stack.callback(self._pool.close)

    def _submit(self, batch: Sequence[Placed], stream: int | None, *, on_device: bool = False) -> RunningBatch:
        self._check()
        canvas = batch[0].canvas
        profile, size = self._engine_canvases.batch_to_run(len(batch), canvas)
        key = PipelineKey(size, canvas, not isinstance(batch[0], Prepared))
        worker = self._pool.acquire(key)
        try:
            self._device.activate()  # nobody closes it while the worker is ours
        except BaseException:
            self._pool.give_back(worker)
            raise
        running: RunningBatch | None = None
        try:
            pipeline = worker.enqueue(key, profile, batch, _waits(batch, stream))
            running = RunningBatch(self._device, self._pool, worker, pipeline, batch)
            if on_device:
                running.output = self._kept(running, worker, pipeline, stream or 0)
            self._pool.submitted(running)
        except BaseException:
            if running is None or not self._pool.is_in_flight(running):
                self._recover(worker)
            raise
        return running

    def _kept(self, running: RunningBatch, worker: Worker, pipeline: Pipeline, stream: int) -> DeviceOutput:
        """Copy the answers to memory of their own, before the worker writes over them."""
        memory = self._keeper.allocate(pipeline.answers_bytes)
        output = DeviceOutput(self._keeper, memory, pipeline.fields, arrays=running.arrays, stream=stream)
        self._device.copy(memory.pointer, pipeline.answers_pointer, pipeline.answers_bytes, worker.stream)
        self._device.wait_for(stream, worker.stream)
        return output

    def _recover(self, worker: Worker) -> None:
        """Free a worker after a failed call, or do without it where its stream does not come to rest."""
        try:
            self._device.synchronize(worker.stream)
        except BaseException:
            with suppress(FrcnnError):
                self._pool.discard(worker)
        else:
            self._pool.give_back(worker)

    def _make_worker(self) -> Worker:
        self._device.activate()
        return Worker(self._program, self._device, remark)

    def _check(self) -> None:
        if self._closed:
            raise closed_error()
        if os.getpid() != self._process:
            raise forked_error()


def _waits(batch: Sequence[Placed], stream: int | None) -> Iterable[int]:
    """Return the streams that make the images in device memory."""
    images = [item.image for item in batch if isinstance(item.image, DeviceImage)]
    if not images or stream is None:
        return {image.stream for image in images}
    return {stream, *(image.stream for image in images if image.stream)}


def _image(image: object, name: str, max_pixels: int, *, ahead: bool) -> RGBImage | DeviceImage:
    """Turn what a caller handed in into an image, without a copy where one can be avoided."""
    if isinstance(image, DeviceImage):
        return image
    tensor: Any = image if is_tensor(image) else None
    if is_device_array(image) and (tensor is None or not tensor.is_floating_point()):
        return device_image(image, name=name)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        kept = image.copy(order="K") if ahead else image
        if kept.ndim == 2 and kept.size:
            return RGBImage(pixels=np.broadcast_to(kept[:, :, None], (*kept.shape, 3)), name=name)
        return as_image(kept, name=name, max_pixels=max_pixels)
    return as_image(image, name=name, max_pixels=max_pixels)
