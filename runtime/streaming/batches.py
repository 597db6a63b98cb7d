"""Put images that share a canvas into batches and hand the answers back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from frcnn.runtime.backend import Pending
from frcnn.runtime.images.preprocess import Placed, Prepared
from frcnn.runtime.streaming.prefetch import Pause
from frcnn.spec import Size

__all__ = ["answers_in_order", "naming_images"]

Answer = TypeVar("Answer")
Group = tuple[Size, bool]

_PATIENCE = 4
"""Batches' worth of images that may wait for their canvas's batch to fill."""


def answers_in_order(
    placed: Iterable[Placed | Pause],
    submit: Callable[[list[Placed]], Pending[list[Answer]]],
    *,
    batch_size: int,
    maximum: Callable[[Size, int], int] | None = None,
    in_flight: int = 1,
) -> Generator[tuple[Placed, Answer]]:
    """Run images in batches of one canvas each, and yield every image with its answer, in the order they came.

    A batch is submitted when it is full, when the images end, or when too many images wait. Where the iterable or
    a batch fails, no further image is taken, and those before the failure are answered first. Where the iterable
    pauses, batches in flight are waited for rather than the next image.

    Args:
        placed: the images.
        submit: begins to answer a batch of images of one canvas, all prepared on the CPU or none.
        batch_size: the most images in a batch.
        maximum: (canvas, batch size) -> how many of them its canvas allows; None: as many.
        in_flight: how many batches there may be of which the answers are not there yet.
    """
    waiting: _Waiting[Answer] = _Waiting(submit, in_flight)
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
            if isinstance(item, Pause):
                waiting.settle(0)
                yield from waiting.ready()
                continue
            group = waiting.add(item)
            if waiting.count(group) >= (batch_size if maximum is None else maximum(item.canvas, batch_size)):
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
    """Note on an exception of the block which images it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while detecting in {', '.join(item.image.name for item in placed)}")
        raise


class _Slot(Generic[Answer]):
    """An image and, once it is there, its answer or what went wrong."""

    __slots__ = ("answer", "error", "placed")

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.answer: Answer | None = None
        self.error: Exception | None = None


class _Waiting(Generic[Answer]):
    """Images in order of arrival, those not yet submitted by group, and batches in flight.

    Attributes:
        has_failed: whether a batch did; :meth:`ready` raises why when its first image's turn comes.
    """

    def __init__(self, submit: Callable[[list[Placed]], Pending[list[Answer]]], in_flight: int) -> None:
        self._submit = submit
        self._max_in_flight = in_flight
        self._order: deque[_Slot[Answer]] = deque()
        self._groups: dict[Group, list[_Slot[Answer]]] = {}
        self._in_flight: deque[tuple[list[_Slot[Answer]], Pending[list[Answer]]]] = deque()
        self.has_failed = False

    def __len__(self) -> int:
        return len(self._order)

    def add(self, placed: Placed) -> Group:
        slot: _Slot[Answer] = _Slot(placed)
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
        """Run the batch of the image that has waited longest, or wait for it where it is in flight."""
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
                    answers = pending.result()
                finally:
                    pending.close()
                for slot, answer in zip(slots, answers, strict=True):
                    slot.answer = answer

    def ready(self) -> Iterator[tuple[Placed, Answer]]:
        """Yield the images whose turn it is and that are answered; raise what went wrong with the next."""
        while self._order:
            slot = self._order[0]
            if slot.error is not None:
                try:
                    raise slot.error
                finally:
                    del slot  # see answers_in_order
            if slot.answer is None:
                return
            self._order.popleft()
            yield slot.placed, slot.answer

    def close(self) -> None:
        """Let what is in flight end, whatever becomes of it, and forget everything."""
        while self._in_flight:
            self._in_flight.popleft()[1].close()
        for slot in self._order:
            slot.error = None  # see answers_in_order
        self._order.clear()
        self._groups.clear()

    @contextmanager
    def _keeping_failure(self, slots: list[_Slot[Answer]]) -> Iterator[list[Placed]]:
        """Give the images; an exception of the block is kept as what became of each."""
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
