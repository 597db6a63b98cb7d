"""Who may use which worker: any thread may ask, and none waits for another thread's good will.

A batch that was submitted holds its worker until its answers are fetched. The thread that asked for it may take its
time about that, or be this very thread, so whoever finds no free worker fetches the oldest answers in its stead.

Ctrl-C may come at any call in here, and no worker may be lost by it, or be with two. Python looks for signals where a
function is entered and where a call returns, so what belongs together is written without calls in between, and the
lock is entered as it is: a condition's own ``with`` is written in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from frcnn.errors import UsageError
from frcnn.runtime.gpu.pipeline import PipelineKey
from frcnn.runtime.gpu.worker import Worker

__all__ = ["Fetchable", "WorkerPool", "closed_error", "forked_error"]


_RECHECK_SECONDS: Final = 1.0
"""Where Ctrl-C took the word from whoever was to say that something changed."""


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

    def __init__(self, make: Callable[[], Worker], maximum: int) -> None:
        self._make = make
        self._max = maximum
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
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
                        if oldest is None:  # each is with a thread that is submitting, which waits for nobody
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

    def submitted(self, batch: Fetchable) -> None:
        """Note a batch in flight, whose worker may be asked back."""
        with self._lock:
            self._in_flight[batch] = None
            self._changed.notify_all()

    def is_in_flight(self, batch: Fetchable) -> bool:
        """Whether a batch was noted and holds its worker still."""
        return batch in self._in_flight

    def give_back(self, worker: Worker, batch: Fetchable | None = None) -> None:
        """Free a worker whose stream is done; once, where it is with a batch, however often that is tried."""
        with self._lock:
            if batch is not None:
                if batch not in self._in_flight:
                    return
                del self._in_flight[batch]
            self._free += [worker]
            self._changed.notify_all()

    def discard(self, worker: Worker, batch: Fetchable | None = None) -> None:
        """Close a worker that failed; another may be made in its place.

        Raises:
            ArtifactError: it cannot be closed cleanly.
        """
        try:
            worker.close()
        finally:
            self._forget(batch)

    def close(self) -> None:
        """Refuse new calls, wait for those that run, and close all workers; from any number of threads.

        Raises:
            ArtifactError: a worker cannot be closed cleanly; all were closed nevertheless.
        """
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
            except Exception as error:  # the others must be closed all the same
                failure = failure or error
        if failure is not None:
            raise failure

    def _forget(self, batch: Fetchable | None = None) -> None:
        """Count a worker as gone."""
        with self._lock:
            if batch in self._in_flight:
                del self._in_flight[batch]
            self._made -= 1
            self._changed.notify_all()
