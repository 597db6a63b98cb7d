"""Do the work of an iterator ahead of its consumer, in one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = ["Pause", "prefetched", "prefetched_with_pauses"]

T = TypeVar("T")

_POLL_SECONDS: Final = 0.05
_JOIN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _End:
    """The iterable ended, by an exception where there is one."""

    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Said where the next item is not there yet: a moment to do what would otherwise wait for it."""


def prefetched(items: Iterable[T], *, depth: int) -> Generator[T]:
    """Yield the items in order while a thread makes up to ``depth`` further ones.

    The thread starts with the first item asked for. An exception of the iterable is raised here, after the items
    before it. Closing this generator, or an exception in its consumer, stops the thread after the item in hand and
    closes the iterable if that is a generator.

    Args:
        items: what to iterate over; only the thread touches it from then on.
        depth: bound of the queue.
    """
    with closing(prefetched_with_pauses(items, depth=depth)) as ahead:
        for item in ahead:
            if not isinstance(item, Pause):
                yield item


def prefetched_with_pauses(items: Iterable[T], *, depth: int) -> Generator[T | Pause]:
    """Do as :func:`prefetched` does, and yield a :class:`Pause` before each wait for an item."""
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), name="frcnn-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            if ready.empty():
                yield Pause()
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join(_JOIN_SECONDS)  # longer only where the iterable itself blocks; the thread is a daemon


def _produce(items: Iterable[T], ready: queue.Queue[T | _End], stop: threading.Event) -> None:
    iterator: Iterator[T] | None = None
    end = _End(None)
    try:
        iterator = iter(items)
        for item in iterator:
            if not _put(ready, item, stop):
                break
    except BaseException as error:  # whatever it is, the consumer has to see it
        end = _End(error)
    finally:
        close = getattr(iterator, "close", None)
        if callable(close):
            with suppress(Exception):
                close()
        _put(ready, end, stop)


def _put(ready: queue.Queue[T | _End], item: T | _End, stop: threading.Event) -> bool:
    """Put an item into the queue; give up and return False when asked to stop."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
