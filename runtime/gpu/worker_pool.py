"""Workers shared by threads, none of which waits for another thread to fetch its results.

A submitted batch holds its worker until its outputs are fetched. The thread that submitted it may do so late, or be
the same thread, so a thread that finds no free worker fetches the oldest outputs itself.

Ctrl-C may come at any call in here, and must neither lose a worker nor give it to two threads. Python handles signals
where a function is entered and where a call returns, so steps that belong together have no calls in between, and the
lock is entered directly: a condition's own ``with`` is written in Python.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from numpy.typing import NDArray

from frcnn.errors import ArtifactError, FrcnnError
from frcnn.runtime.backend import NetworkOutput, closed_error
from frcnn.runtime.device_detections import DeviceOutput
from frcnn.runtime.forks import forked_error
from frcnn.runtime.gpu.device import Device
from frcnn.runtime.gpu.pipeline import Pipeline, PipelineKey
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.images.preprocess import Placed

_RECHECK_SECONDS: Final = 1.0
"""For the case that Ctrl-C interrupted a thread before it could notify the others."""


class WorkerPool:
    """Workers, made when they are needed, up to a maximum."""

    def __init__(self, make: Callable[[], Worker], maximum: int) -> None:
        self._make = make
        self._max = maximum
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._free: list[Worker] = []
        self._made = 0
        self._in_flight: dict[RunningBatch, None] = {}
        self._closing = False

    def acquire(self, key: PipelineKey) -> Worker:
        """Take a worker: a free one, if possible with the shape bound, a new one, or the first that can be freed."""
        worker: Worker | None = None
        new = False
        try:
            while True:
                with self._lock:
                    if self._closing:
                        raise closed_error()
                    if self._free:
                        index = next((i for i, free in enumerate(self._free) if key in free.pipelines), -1)
                        worker = self._free[index]
                        del self._free[index]
                        return worker
                    oldest = None
                    if self._made < self._max:
                        new = True
                        self._made += 1
                    else:
                        oldest = next(iter(self._in_flight), None)
                        if oldest is None:  # each is in a thread that submits, which waits for no other
                            self._changed.wait(_RECHECK_SECONDS)
                if new:
                    return self._make()
                if oldest is not None:
                    oldest.fetch()
        except BaseException:
            if worker is not None:
                self.give_back(worker)
            elif new:
                self._forget()
            raise

    def submitted(self, batch: RunningBatch) -> None:
        """Register a batch in flight, so that other threads may fetch it."""
        with self._lock:
            self._in_flight[batch] = None
            self._changed.notify_all()

    def is_in_flight(self, batch: RunningBatch) -> bool:
        """Return whether a batch is registered and still holds its worker."""
        return batch in self._in_flight

    def give_back(self, worker: Worker, batch: RunningBatch | None = None) -> None:
        """Free a worker whose stream is done; for a batch, only the first call does so."""
        with self._lock:
            if batch is not None:
                if batch not in self._in_flight:
                    return
                del self._in_flight[batch]
            self._free += [worker]
            self._changed.notify_all()

    def discard(self, worker: Worker, batch: RunningBatch | None = None) -> None:
        """Close a worker that failed; another may replace it."""
        try:
            worker.close()
        finally:
            self._forget(batch)

    def close(self) -> None:
        """Refuse new calls, wait for those in progress, and close all workers; several threads may call it."""
        failure: Exception | None = None
        while True:
            with self._lock:
                self._closing = True
                self._changed.notify_all()
                if self._made == 0:
                    break
                worker = self._free.pop() if self._free else None
                oldest = next(iter(self._in_flight), None)
                if worker is None and oldest is None:
                    self._changed.wait(_RECHECK_SECONDS)
            try:
                if worker is not None:
                    self.discard(worker)
                elif oldest is not None:
                    oldest.fetch()
            except Exception as error:  # close the others nevertheless
                failure = failure or error
        if failure is not None:
            raise failure

    def _forget(self, batch: RunningBatch | None = None) -> None:
        """Remove a worker from the count."""
        with self._lock:
            if batch in self._in_flight:
                del self._in_flight[batch]
            self._made -= 1
            self._changed.notify_all()


class RunningBatch:
    """A batch on a worker's stream, fetched once, by whoever needs it or the worker; a ``Pending``.

    It keeps the images in device memory alive until they were read, and ``output``, the outputs' own memory on the
    device, until they are there.
    """

    def __init__(
        self, device: Device, pool: WorkerPool, worker: Worker, pipeline: Pipeline, batch: Sequence[Placed]
    ) -> None:
        self._process = os.getpid()
        self._device = device
        self._pool = pool
        self._bound: tuple[Worker, Pipeline] | None = (worker, pipeline)
        self._batch: Sequence[Placed] = batch
        self._count = len(batch)
        self._lock = threading.Lock()
        self._outputs: Mapping[str, NDArray[Any]] | None = None
        self._error: FrcnnError | None = None
        self.output: DeviceOutput | None = None

    def result(self) -> NetworkOutput:
        """Wait for the outputs and return the rows of the batch's images."""
        return NetworkOutput(**{name: array[: self._count] for name, array in self.arrays().items()})

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Wait for the outputs and return them by name, with the padding of the batch."""
        self.fetch()
        if self._error is not None:
            raise self._error
        assert self._outputs is not None
        return self._outputs

    def close(self) -> None:
        """Let the work end and free the worker."""
        self.fetch()

    def fetch(self) -> None:
        """Wait for the stream, keep the outputs and free the worker, unless that was done; keep a failure, too."""
        if os.getpid() != self._process:
            raise forked_error(left="what it has on the GPU")
        with self._lock:
            if self._bound is None:
                return
            worker, pipeline = self._bound
            try:
                if self._outputs is None:  # or Ctrl-C came after they were there
                    self._device.activate()
                    self._device.synchronize(worker.stream)
                    self._outputs = {name: array.copy() for name, array in pipeline.outputs.items()}
            except FrcnnError as error:
                self._error = error
            finally:
                self._batch, self.output = (), None
                if self._outputs is not None:
                    self._pool.give_back(worker, self)
                    self._bound = None
                else:
                    self._bound = None
                    self._error = self._error or ArtifactError("the detections were not fetched: interrupted")
                    with suppress(FrcnnError):
                        self._pool.discard(worker, self)
