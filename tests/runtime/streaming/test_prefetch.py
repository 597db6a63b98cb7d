"""frcnn.runtime.streaming.prefetch: order, bound, errors, and the end of the thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

import pytest

from frcnn.runtime.streaming.prefetch import Ahead, NotReady


def prefetched(items: Iterable[int], *, depth: int) -> Generator[int]:
    with closing(Ahead(items, depth=depth).entries()) as entries:
        for entry in entries:
            if not isinstance(entry, NotReady):
                yield entry


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "frcnn-prefetch"]


def test_order_is_kept() -> None:
    assert list(prefetched(range(200), depth=3)) == list(range(200))
    assert list(prefetched([], depth=1)) == []


def test_works_ahead_in_another_thread_up_to_the_bound() -> None:
    made: list[tuple[int, str]] = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append((number, threading.current_thread().name))
            yield number

    ahead = prefetched(source(), depth=3)
    assert made == []  # nothing happens before the first item is asked for
    assert next(ahead) == 0
    assert eventually(lambda: len(made) == 5)  # one given, three in the queue, one in hand
    time.sleep(0.1)
    assert len(made) == 5
    assert {name for _, name in made} == {"frcnn-prefetch"}
    ahead.close()


def test_an_exception_comes_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("broken")

    ahead = prefetched(source(), depth=5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="broken"):
        next(ahead)
    assert prefetch_threads() == []


def test_an_iterable_that_cannot_be_iterated_over_raises_here() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        next(prefetched(5, depth=1))  # type: ignore[arg-type]


def test_closing_early_stops_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ahead = prefetched(source(), depth=2)
    next(ahead)
    assert len(prefetch_threads()) == 1
    ahead.close()
    assert closed.is_set()
    assert prefetch_threads() == []


def test_an_exception_of_the_consumer_stops_the_thread() -> None:
    def consume() -> None:
        for _ in prefetched(iter(int, 1), depth=2):
            raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        consume()
    assert eventually(lambda: prefetch_threads() == [])


def test_a_wait_for_the_next_item_is_announced() -> None:
    gate = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert gate.wait(5)
        yield 2

    ahead = Ahead(source(), depth=3).entries()
    given = [next(ahead)]
    while given[-1] != 1:
        given.append(next(ahead))
    assert isinstance(next(ahead), NotReady)
    gate.set()
    rest = list(ahead)
    assert [entry for entry in rest if not isinstance(entry, NotReady)] == [2]
