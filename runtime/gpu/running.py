"""A batch in flight on a worker's stream."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from frcnn.errors import ArtifactError, FrcnnError
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.device_detections import DeviceOutput
from frcnn.runtime.gpu.device import Device
from frcnn.runtime.gpu.pipeline import Pipeline
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.gpu.worker_pool import WorkerPool, forked_error
from frcnn.runtime.images.preprocess import Placed

__all__ = ["RunningBatch"]


class RunningBatch:
    """Answers that are fetched once, by whoever needs them or the worker; a ``Pending`` of the network's output.

    Args:
        device: where it runs.
        pool: takes the worker back.
        worker: what it runs on.
        pipeline: what will hold the answers.
        batch: the images; those in device memory are kept alive until they were read.

    Attributes:
        output: the answers' own memory on the device, kept until they are there.
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
        self._answers: Mapping[str, NDArray[Any]] | None = None
        self._error: FrcnnError | None = None
        self.output: DeviceOutput | None = None

    def result(self) -> NetworkOutput:
        """Wait for the answers.

        Raises:
            ArtifactError: the network failed.
        """
        arrays = self.arrays()
        return NetworkOutput(
            num_detections=arrays["num_detections"][: self._count],
            boxes=arrays["boxes"][: self._count],
            scores=arrays["scores"][: self._count],
            labels=arrays["labels"][: self._count],
        )

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Wait for the answers and return them by the outputs' names, with what was padded.

        Raises:
            ArtifactError: the network failed.
        """
        self.fetch()
        if self._error is not None:
            raise self._error
        assert self._answers is not None
        return self._answers

    def close(self) -> None:
        """Let the work end and free the worker."""
        self.fetch()

    def fetch(self) -> None:
        """Wait for the stream, keep the answers and free the worker, unless that was done; failures are kept, too.

        Raises:
            UsageError: this process was forked off since.
        """
        if os.getpid() != self._process:
            raise forked_error()
        with self._lock:
            if self._bound is None:
                return
            worker, pipeline = self._bound
            try:
                if self._answers is None:  # or Ctrl-C came after they were there
                    self._device.activate()
                    self._device.synchronize(worker.stream)
                    self._answers = {name: array.copy() for name, array in pipeline.answers.items()}
            except FrcnnError as error:
                self._error = error
            finally:
                self._batch, self.output = (), None
                if self._answers is not None:
                    self._pool.give_back(worker, self)
                    self._bound = None
                else:
                    self._bound = None
                    self._error = self._error or ArtifactError("the answers were not fetched: it was interrupted")
                    with suppress(FrcnnError):
                        self._pool.discard(worker, self)
