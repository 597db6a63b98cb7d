"""Batch images that share a canvas, and yield the results in the order of the images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from frcnn.runtime.backend import Pending
from frcnn.runtime.images.preprocess import Placed, Prepared
from frcnn.runtime.streaming.prefetch import NotReady
from frcnn.spec import Size

Result = TypeVar("Result")
Group = tuple[Size, bool]

_PATIENCE = 4
"""Batches' worth of images that may wait for the batch of their canvas to fill."""


def results_in_order(
    placed: Iterable[Placed | NotReady],
    submit: Callable[[list[Placed]], Pending[list[Result]]],
    *,
    batch_size: int,
    max_at_once: Callable[[Size, int], int] | None = None,
    in_flight: int = 1,
) -> Generator[tuple[Placed, Result]]:
    """Run images in batches of one canvas each, and yield every image with its result, in the order they came.

    A batch is submitted when it is full, when the images end, or when too many images wait. If the iterable or a batch
    fails, no further image is taken, and the results of the images before the failure come first. While the next image
    is not ready, batches in flight are fetched instead.

    ``max_at_once`` returns how many images a canvas allows of a batch size; ``in_flight`` is the maximum of batches.
    """
    waiting: _Waiting[Result] = _Waiting(submit, in_flight)
    failure: Exception | None = None
    source = iter(placed)
    try:
        while not waiting.has_failed:
            try:
                item = next(source, None)
            except Exception as error:  # raised again below, after the images before it
                failure, item = error, None
            if item is None:
                break
            if isinstance(item, NotReady):
                waiting.settle(0)
                yield from waiting.ready()
                continue
            group = waiting.add(item)
            if waiting.count(group) >= (batch_size if max_at_once is None else max_at_once(item.canvas, batch_size)):
                waiting.run(group)
            elif len(waiting) >= _PATIENCE * batch_size:
                waiting.run_oldest()
            yield from waiting.ready()
        while waiting:
            waiting.run_oldest()
            yield from waiting.ready()
        if failure is not None:
            raise failure
    finally:
        del failure  # an error holds the frames it came through: together they would outlive their user
        waiting.close()


@contextmanager
def naming_images(placed: Sequence[Placed]) -> Iterator[None]:
    """Add the images' names to an exception of the block."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while detecting in {', '.join(item.image.name for item in placed)}")
        raise


@dataclass(slots=True, eq=False)
class _Slot(Generic[Result]):
    """An image and, later, its result or the error of its batch."""

    placed: Placed
    result: Result | None = None
    error: Exception | None = None


class _Waiting(Generic[Result]):
    """Images in order of arrival, those not submitted yet by group, and batches in flight.

    If ``has_failed``, :meth:`ready` raises the error of the batch in its first image's turn.
    """

    def __init__(self, submit: Callable[[list[Placed]], Pending[list[Result]]], in_flight: int) -> None:
        self._submit = submit
        self._max_in_flight = in_flight
        self._order: deque[_Slot[Result]] = deque()
        self._groups: dict[Group, list[_Slot[Result]]] = {}
        self._in_flight: deque[tuple[list[_Slot[Result]], Pending[list[Result]]]] = deque()
        self.has_failed = False

    def __len__(self) -> int:
        return len(self._order)

    def add(self, placed: Placed) -> Group:
        slot: _Slot[Result] = _Slot(placed)
        self._order.append(slot)
        group = _group_of(placed)
        self._groups.setdefault(group, []).append(slot)
        return group

    def count(self, group: Group) -> int:
        return len(self._groups[group])

    def run(self, group: Group) -> None:
        slots = self._groups.pop(group)
        with self._keeping_failure(slots) as batch:
            self._in_flight.append((slots, self._submit(batch)))
        self.settle(self._max_in_flight - 1)

    def run_oldest(self) -> None:
        """Run the batch of the oldest image, or wait for it if it is in flight."""
        oldest = self._order[0]
        group = _group_of(oldest.placed)
        if self._groups.get(group, [None])[0] is oldest:
            self.run(group)
        else:
            self.settle(len(self._in_flight) - 1)

    def settle(self, left: int) -> None:
        """Wait for the oldest batches in flight until only so many are left."""
        while len(self._in_flight) > left:
            slots, pending = self._in_flight.popleft()
            with self._keeping_failure(slots):
                try:
                    results = pending.result()
                finally:
                    pending.close()
                for slot, result in zip(slots, results, strict=True):
                    slot.result = result

    def ready(self) -> Iterator[tuple[Placed, Result]]:
        """Yield the leading images that have results; raise the error of the next one."""
        while self._order:
            slot = self._order[0]
            if slot.error is not None:
                try:
                    raise slot.error
                finally:
                    del slot  # see results_in_order
            if slot.result is None:
                return
            self._order.popleft()
            yield slot.placed, slot.result

    def close(self) -> None:
        """Let the batches in flight end, whatever their outcome, and forget everything."""
        while self._in_flight:
            self._in_flight.popleft()[1].close()
        for slot in self._order:
            slot.error = None  # see results_in_order
        self._order.clear()
        self._groups.clear()

    @contextmanager
    def _keeping_failure(self, slots: list[_Slot[Result]]) -> Iterator[list[Placed]]:
        """Yield the images of the slots; keep an exception of the block as the error of each."""
        batch = [slot.placed for slot in slots]
        try:
            with naming_images(batch):
                yield batch
        except Exception as error:
            self.has_failed = True
            for slot in slots:
                slot.error = error


def _group_of(placed: Placed) -> Group:
    return placed.canvas, isinstance(placed, Prepared)
