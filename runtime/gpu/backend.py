"""Run an engine artifact on a GPU: any thread may call, batches may overlap, detections may stay on the device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

import numpy as np

from frcnn.errors import FrcnnError, UsageError
from frcnn.log import warn_once
from frcnn.runtime.backend import closed_error
from frcnn.runtime.device_detections import DeviceDetections, DeviceKeeper, DeviceOutput
from frcnn.runtime.forks import forked_error, keep_in_forks
from frcnn.runtime.gpu.device import Device, Engine
from frcnn.runtime.gpu.pipeline import Pipeline, PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.gpu.worker_pool import RunningBatch, WorkerPool
from frcnn.runtime.images.canvases import Canvases, EngineCanvases
from frcnn.runtime.images.image import (
    ChannelOrder,
    DeviceImage,
    RGBImage,
    as_device_image,
    as_image,
    is_device_array,
    is_tensor,
)
from frcnn.runtime.images.preprocess import Placed, Prepared, factors_to_image, place, with_pixels
from frcnn.spec.engine import OUTPUTS, EngineManifest

DEFAULT_WORKERS: Final = 2
"""Batches that may be on the GPU at once. Two overlap one's copies with the other's work; each further one costs an
arena and engine contexts again, and gains where batches are too small to fill the GPU."""


class EngineBackend:
    """A ``Backend`` on an engine artifact.

    It owns the device and the engines from here on, also if the constructor fails. ``workers`` is the maximum of
    batches that run at once.
    """

    on_gpu = True

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
        self._process = keep_in_forks(self)
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

    def place(self, image: object, *, name: str, max_pixels: int, ahead: bool, order: ChannelOrder = "rgb") -> Placed:
        """Decode an image and choose its canvas; see ``Backend.place``.

        The GPU resizes uint8 images; floating ones are prepared here, on the CPU.
        """
        self._check()
        transform = self._manifest.source.model.transform
        decoded = _decoded(image, name, max_pixels, order, ahead=ahead)
        placed = place(decoded, transform, self.canvases)
        if isinstance(decoded, RGBImage) and decoded.pixels.dtype != np.uint8:
            return with_pixels(placed, transform)
        return placed

    def submit(self, batch: Sequence[Placed], *, stream: int | None = None, on_device: bool = False) -> RunningBatch:
        """Begin to detect; see ``Backend.submit``. With ``on_device`` the batch has an ``output``."""
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
            pipeline = worker.enqueue(key, profile, batch, _streams_of(batch, stream))
            running = RunningBatch(self._device, self._pool, worker, pipeline, batch)
            if on_device:
                running.output = self._device_output(running, worker, pipeline, stream or 0)
            self._pool.submitted(running)
        except BaseException:
            if running is None or not self._pool.is_in_flight(running):
                self._recover(worker)
            raise
        return running

    def submit_to_device(self, batch: Sequence[Placed], *, stream: int | None = None) -> list[DeviceDetections]:
        """Detect and leave the detections in device memory; see ``Backend.submit_to_device``.

        Their memory is allocated here, and the caller's stream (the legacy default stream if there is none) waits for
        the work.
        """
        output = self.submit(batch, stream=stream, on_device=True).output
        assert output is not None
        return [
            DeviceDetections(
                **{name: output.row(name, index) for name in OUTPUTS},
                to_image=factors_to_image(item),
                image_size=item.image.size,
                source=item.image.source,
                label_names=self._manifest.source.model.labels,
                _index=index,
            )
            for index, item in enumerate(batch)
        ]

    def close(self) -> None:
        """Wait for work in progress, then release everything; a second call does nothing.

        Detections on the device stay valid, and keep the device open, until they are released. In a forked process
        nothing happens: everything belongs to the parent.
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

    def _device_output(self, running: RunningBatch, worker: Worker, pipeline: Pipeline, stream: int) -> DeviceOutput:
        """Copy the outputs to memory of their own, before the worker writes over them."""
        memory = self._keeper.allocate(pipeline.output_bytes)
        output = DeviceOutput(self._keeper, memory, pipeline.fields, on_host=running.arrays, stream=stream)
        self._device.copy(memory.pointer, pipeline.output_pointer, pipeline.output_bytes, worker.stream)
        self._device.wait_for(stream, worker.stream)
        return output

    def _recover(self, worker: Worker) -> None:
        """Free a worker after a failed call, or discard it if its stream does not come to rest."""
        try:
            self._device.synchronize(worker.stream)
        except BaseException:
            with suppress(FrcnnError):
                self._pool.discard(worker)
        else:
            self._pool.give_back(worker)

    def _make_worker(self) -> Worker:
        self._device.activate()
        return Worker(self._program, self._device, warn_once)

    def _check(self) -> None:
        if self._closed:
            raise closed_error()
        if os.getpid() != self._process:
            raise forked_error(left="what it has on the GPU")


def _streams_of(batch: Sequence[Placed], stream: int | None) -> Iterable[int]:
    """Return the streams that produce the images in device memory."""
    images = [item.image for item in batch if isinstance(item.image, DeviceImage)]
    if not images or stream is None:
        return {image.stream for image in images}
    return {stream, *(image.stream for image in images if image.stream)}


def _decoded(image: object, name: str, max_pixels: int, order: ChannelOrder, *, ahead: bool) -> RGBImage | DeviceImage:
    """Return what a caller handed in as an image, without a copy where one can be avoided."""
    if isinstance(image, DeviceImage):
        return image
    tensor: Any = image if is_tensor(image) else None
    if is_device_array(image) and (tensor is None or not tensor.is_floating_point()):
        return as_device_image(image, name=name, channel_order=order)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = image.copy(order="K") if ahead else image
        if image.ndim == 2 and image.size:
            return RGBImage(pixels=np.broadcast_to(image[:, :, None], (*image.shape, 3)), name=name)
    return as_image(image, name=name, max_pixels=max_pixels, channel_order=order)
