"""Run an iterator ahead of its consumer, in one thread."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from frcnn.runtime.exits import at_exit
from frcnn.runtime.forks import forked_error

T = TypeVar("T")

_POLL_SECONDS: Final = 0.05
_JOIN_SECONDS: Final = 5.0
_EXIT_SECONDS: Final = 1.0  # an image is decoded by then


@dataclass(frozen=True, slots=True)
class _End:
    """The iterable ended, by an exception where there is one."""

    error: BaseException | None


class NotReady:
    """Yielded before a wait for the next item: the consumer may do other work first."""


class Ahead(Generic[T]):
    """Items that a thread makes before they are needed, at most ``depth`` of them.

    The thread starts with the first item. It ends with the iterable, when the consumer closes the generator or fails,
    by :meth:`end`, and at the interpreter's exit: a thread that is in a decoder then would abort the process. Ctrl-C
    does not wait for it. The thread closes an iterable that is a generator.
    """

    def __init__(self, items: Iterable[T], *, depth: int) -> None:
        self._ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, args=(items,), name="frcnn-prefetch", daemon=True)

    def entries(self) -> Generator[T | NotReady]:
        """Yield the items in order, and a :class:`NotReady` before each wait for one.

        An exception of the iterable is raised here, after the items before it.
        """
        _running.add(self)
        self._thread.start()
        patience_s = _JOIN_SECONDS
        try:
            while True:
                self._check_not_forked()
                if self._ready.empty():
                    yield NotReady()
                    self._check_not_forked()
                entry = self._ready.get()
                if isinstance(entry, _End):
                    if entry.error is None:
                        return
                    try:
                        raise entry.error
                    finally:
                        del entry  # the error holds this frame: together they would outlive their user
                yield entry
        except (Exception, GeneratorExit):
            raise
        except BaseException:  # Ctrl-C, SIGTERM: end at once, even if the iterable blocks
            patience_s = 0
            raise
        finally:
            self._halt(patience_s)
            self._ready.queue.clear()  # without its lock, which a thread may have held during a fork

    def end(self, error: BaseException) -> None:
        """Stop the thread, drop its items, and raise an error in the consumer instead.

        In a forked process nothing happens: the thread is the parent's.
        """
        if os.getpid() != self._process:
            return
        self._halt(_JOIN_SECONDS)
        self._ready.queue.clear()
        with suppress(queue.Full):  # if another thread ends it, too: ours puts nothing any more
            self._ready.put_nowait(_End(error))

    def _check_not_forked(self) -> None:
        if os.getpid() != self._process:
            raise forked_error("the stream", "its thread")

    def _halt(self, patience_s: float) -> None:
        """Stop the thread after the item in hand; wait for it, unless this is the thread or the iterable blocks."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(patience_s)

    def _run(self, items: Iterable[T]) -> None:
        iterator: Iterator[T] | None = None
        end = _End(None)
        try:
            iterator = iter(items)
            for item in iterator:
                if not self._put(item):
                    break
        except BaseException as error:  # the consumer must see every exception
            end = _End(error)
        finally:
            close = getattr(iterator, "close", None)
            if callable(close):
                with suppress(BaseException):  # the consumer waits for the end in any case
                    close()
            self._put(end)
            del end  # see entries
            _running.discard(self)

    def _put(self, item: T | _End) -> bool:
        """Put an item into the queue; give up and return False when asked to stop."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


_running: set[Ahead[Any]] = set()


@at_exit  # once: a callback that is unregistered leaves its place behind
def _halt_all() -> None:
    """Stop all threads before the interpreter ends."""
    waiting = tuple(_running)
    for ahead in waiting:
        ahead._stop.set()
    for ahead in waiting:
        ahead._halt(_EXIT_SECONDS)
