"""Who may use which worker: any thread may ask, and none waits for another thread's good will.

A batch that was submitted holds its worker until its answers are fetched. The thread that asked for it may take its
time about that, or be this very thread, so whoever finds no free worker fetches the oldest answers in its stead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from frcnn.errors import UsageError
from frcnn.runtime.pipeline import PipelineKey
from frcnn.runtime.worker import Worker

__all__ = ["Fetchable", "WorkerPool", "closed_error", "forked_error"]


class Fetchable(Protocol):
    """A batch in flight."""

    def fetch(self) -> None:
        """Wait for its answers, keep them, and give its worker back; once, whoever calls."""


def closed_error() -> UsageError:
    """Return the error of a call on a closed detector."""
    return UsageError("the detector is closed", hint="load it again with Detector.load")


def forked_error() -> UsageError:
    """Return the error of a call in a process that was forked off after the detector was loaded."""
    return UsageError(
        "the detector was loaded before this process was forked off, and CUDA does not survive that",
        hint="load it in each process, or start them by multiprocessing.get_context('spawn')",
    )


class WorkerPool:
    """Workers, made when they are needed.

    Args:
        make: makes a worker.
        most: how many there may be.
    """

    def __init__(self, make: Callable[[], Worker], most: int) -> None:
        self._make = make
        self._most = most
        self._changed = threading.Condition()
        self._free: list[Worker] = []
        self._made = 0
        self._in_flight: dict[Fetchable, None] = {}
        self._closing = False

    def acquire(self, key: PipelineKey) -> Worker:
        """Take a worker: a free one, a new one, or the first that can be freed.

        Args:
            key: a shape; a worker that has bound it suits better than the others.

        Raises:
            ArtifactError: no worker can be made.
            UsageError: the pool is closed.
        """
        while True:
            with self._changed:
                if self._closing:
                    raise closed_error()
                if self._free:
                    index = next((i for i, worker in enumerate(self._free) if key in worker.pipelines), -1)
                    return self._free.pop(index)
                new = self._made < self._most
                oldest = None if new else next(iter(self._in_flight), None)
                if new:
                    self._made += 1
                elif oldest is None:
                    self._changed.wait()  # each is with a thread that is submitting, which waits for nobody
            if new:
                return self._new()
            if oldest is not None:
                oldest.fetch()

    def submitted(self, batch: Fetchable) -> None:
        """Note a batch in flight, whose worker may be asked back."""
        with self._changed:
            self._in_flight[batch] = None
            self._changed.notify_all()

    def give_back(self, worker: Worker, batch: Fetchable | None = None) -> None:
        """Free a worker whose stream is done, and forget the batch it was with."""
        with self._changed:
            if batch is not None:
                self._in_flight.pop(batch, None)
            self._free.append(worker)
            self._changed.notify_all()

    def discard(self, worker: Worker, batch: Fetchable | None = None) -> None:
        """Close a worker that failed; another may be made in its place.

        Raises:
            ArtifactError: it cannot be closed cleanly.
        """
        try:
            worker.close()
        finally:
            with self._changed:
                if batch is not None:
                    self._in_flight.pop(batch, None)
                self._made -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Refuse new calls, wait for those that run, and close all workers; from any number of threads.

        Raises:
            ArtifactError: a worker cannot be closed cleanly; all were closed nevertheless.
        """
        failure: Exception | None = None
        while True:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
                if self._made == 0:
                    break
                worker = self._free.pop() if self._free else None
                oldest = next(iter(self._in_flight), None)
                if worker is None and oldest is None:
                    self._changed.wait()
            try:
                if worker is not None:
                    self.discard(worker)
                elif oldest is not None:
                    oldest.fetch()
            except Exception as error:  # the others must be closed all the same
                failure = failure or error
        if failure is not None:
            raise failure

    def _new(self) -> Worker:
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify_all()
            raise
