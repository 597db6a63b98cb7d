"""Workers shared by threads, none of which waits for another thread to fetch its results.

A submitted batch holds its worker until its outputs are fetched. The thread that submitted it may do so late, or be
the same thread, so a thread that finds no free worker fetches the oldest outputs itself.

Ctrl-C may come at any call in here, and must neither lose a worker nor give it to two threads. Python handles signals
where a function is entered and where a call returns, so steps that belong together have no calls in between, and the
lock is entered directly: a condition's own ``with`` is written in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from frcnn.runtime.backend import closed_error
from frcnn.runtime.gpu.pipeline import PipelineKey
from frcnn.runtime.gpu.worker import Worker

__all__ = ["Fetchable", "WorkerPool"]

_RECHECK_SECONDS: Final = 1.0
"""For the case that Ctrl-C interrupted a thread before it could notify the others."""


class Fetchable(Protocol):
    """A batch in flight."""

    def fetch(self) -> None:
        """Wait for its outputs, keep them, and give its worker back; once, whoever calls."""


class WorkerPool:
    """Workers, made when they are needed, up to a maximum."""

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

    def submitted(self, batch: Fetchable) -> None:
        """Register a batch in flight, so that other threads may fetch it."""
        with self._lock:
            self._in_flight[batch] = None
            self._changed.notify_all()

    def is_in_flight(self, batch: Fetchable) -> bool:
        """Return whether a batch is registered and still holds its worker."""
        return batch in self._in_flight

    def give_back(self, worker: Worker, batch: Fetchable | None = None) -> None:
        """Free a worker whose stream is done; for a batch, only the first call does so."""
        with self._lock:
            if batch is not None:
                if batch not in self._in_flight:
                    return
                del self._in_flight[batch]
            self._free += [worker]
            self._changed.notify_all()

    def discard(self, worker: Worker, batch: Fetchable | None = None) -> None:
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

    def _forget(self, batch: Fetchable | None = None) -> None:
        """Remove a worker from the count."""
        with self._lock:
            if batch in self._in_flight:
                del self._in_flight[batch]
            self._made -= 1
            self._changed.notify_all()
