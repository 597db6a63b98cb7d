"""Put pictures that share a canvas into batches and hand the answers back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from frcnn.runtime.preprocess import Prepared
from frcnn.spec import Size

__all__ = ["answers_in_order"]

Answer = TypeVar("Answer")

_PATIENCE = 4
"""Batches' worth of pictures that may wait for their canvas's batch to fill."""


def answers_in_order(
    prepared: Iterable[Prepared], run: Callable[[list[Prepared]], list[Answer]], *, batch_size: int
) -> Iterator[tuple[Prepared, Answer]]:
    """Run pictures in batches of one canvas each, and yield every picture with its answer, in the order they came.

    A batch runs when it is full, when the pictures end, or when too many pictures wait. Where the iterable fails,
    the pictures before the failure are answered first.

    Args:
        prepared: the pictures.
        run: answers a batch of pictures of one canvas.
        batch_size: the most pictures in a batch.
    """
    waiting: _Waiting[Answer] = _Waiting(run)
    failure: Exception | None = None
    source = iter(prepared)
    while True:
        try:
            item = next(source, None)
        except Exception as error:  # raised again below, after the pictures before it
            failure, item = error, None
        if item is None:
            break
        waiting.add(item)
        if waiting.count(item.canvas) == batch_size:
            waiting.run(item.canvas)
        elif len(waiting) >= _PATIENCE * batch_size:
            waiting.run_oldest()
        yield from waiting.ready()
    while waiting:
        waiting.run_oldest()
        yield from waiting.ready()
    if failure is not None:
        raise failure


class _Slot(Generic[Answer]):
    """A picture and, once it is there, its answer."""

    __slots__ = ("answer", "prepared")

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.answer: Answer | None = None


class _Waiting(Generic[Answer]):
    """Pictures in order of arrival, and those without an answer by canvas."""

    def __init__(self, run: Callable[[list[Prepared]], list[Answer]]) -> None:
        self._run = run
        self._order: deque[_Slot[Answer]] = deque()
        self._groups: dict[Size, list[_Slot[Answer]]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def add(self, prepared: Prepared) -> None:
        slot: _Slot[Answer] = _Slot(prepared)
        self._order.append(slot)
        self._groups.setdefault(prepared.canvas, []).append(slot)

    def count(self, canvas: Size) -> int:
        return len(self._groups[canvas])

    def run(self, canvas: Size) -> None:
        slots = self._groups.pop(canvas)
        for slot, answer in zip(slots, self._run([slot.prepared for slot in slots]), strict=True):
            slot.answer = answer

    def run_oldest(self) -> None:
        """Run the batch of the picture that has waited longest (the first in order: answered ones have left)."""
        self.run(self._order[0].prepared.canvas)

    def ready(self) -> Iterator[tuple[Prepared, Answer]]:
        while self._order and self._order[0].answer is not None:
            slot = self._order.popleft()
            assert slot.answer is not None
            yield slot.prepared, slot.answer
