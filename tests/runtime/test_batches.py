"""frcnn.runtime.batches: one canvas a batch, answers in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.runtime.batches import answers_in_order
from frcnn.runtime.pictures import Picture
from frcnn.runtime.preprocess import Prepared


def item(number: int, canvas: int) -> Prepared:
    picture = Picture(pixels=np.zeros((1, 1, 3), np.uint8), name=str(number))
    return Prepared(picture=picture, resized=(1, 1), canvas=(canvas, 1), pixels=np.zeros((3, canvas, 1), np.float32))


class Recorder:
    """Answers a batch with the pictures' names and remembers what batches there were."""

    def __init__(self) -> None:
        self.batches: list[list[Prepared]] = []

    def __call__(self, batch: list[Prepared]) -> list[str]:
        self.batches.append(batch)
        return [f"answer to {prepared.picture.name}" for prepared in batch]


@given(st.lists(st.integers(1, 4), max_size=60), st.integers(1, 5))
def test_order_canvas_and_size_hold(canvases: list[int], batch_size: int) -> None:
    run = Recorder()
    items = [item(number, canvas) for number, canvas in enumerate(canvases)]
    pairs = list(answers_in_order(items, run, batch_size=batch_size))
    assert [prepared for prepared, _ in pairs] == items
    assert [answer for _, answer in pairs] == [f"answer to {number}" for number in range(len(items))]
    assert all(len({prepared.canvas for prepared in batch}) == 1 for batch in run.batches)
    assert all(1 <= len(batch) <= batch_size for batch in run.batches)


def test_pictures_of_one_canvas_fill_batches() -> None:
    run = Recorder()
    list(answers_in_order([item(number, number % 2) for number in range(16)], run, batch_size=4))
    assert [len(batch) for batch in run.batches] == [4, 4, 4, 4]


def test_an_odd_picture_does_not_wait_for_ever() -> None:
    taken = 0

    def source() -> Iterator[Prepared]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield item(number, 1 if number == 0 else 2)

    next(answers_in_order(source(), Recorder(), batch_size=4))
    assert taken <= 4 * 4 + 1


def test_pictures_before_a_failure_are_answered() -> None:
    def source() -> Iterator[Prepared]:
        yield item(0, 1)
        yield item(1, 2)
        raise RuntimeError("the camera is gone")

    pairs = answers_in_order(source(), Recorder(), batch_size=4)
    assert [next(pairs)[1], next(pairs)[1]] == ["answer to 0", "answer to 1"]
    with pytest.raises(RuntimeError, match="the camera is gone"):
        next(pairs)
