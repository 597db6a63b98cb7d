"""frcnn.runtime.streaming.batches: one canvas a batch, results in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.runtime.backend import Done
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import Placed, Prepared
from frcnn.runtime.streaming.batches import results_in_order
from frcnn.runtime.streaming.prefetch import NotReady


def item(number: int, canvas: int) -> Prepared:
    image = RGBImage(pixels=np.zeros((1, 1, 3), np.uint8), name=str(number))
    return Prepared(image=image, resized=(1, 1), canvas=(canvas, 1), pixels=np.zeros((3, canvas, 1), np.float32))


class Recorder:
    """Returns the images' names as results and records the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Placed]] = []

    def __call__(self, batch: list[Placed]) -> Done[list[str]]:
        self.batches.append(batch)
        return Done([f"result of {placed.image.name}" for placed in batch])


@given(st.lists(st.integers(1, 4), max_size=60), st.integers(1, 5))
def test_order_canvas_and_size_hold(canvases: list[int], batch_size: int) -> None:
    run = Recorder()
    items = [item(number, canvas) for number, canvas in enumerate(canvases)]
    pairs = list(results_in_order(items, run, batch_size=batch_size))
    assert [prepared for prepared, _ in pairs] == items
    assert [result for _, result in pairs] == [f"result of {number}" for number in range(len(items))]
    assert all(len({prepared.canvas for prepared in batch}) == 1 for batch in run.batches)
    assert all(1 <= len(batch) <= batch_size for batch in run.batches)


def test_images_of_one_canvas_fill_batches() -> None:
    run = Recorder()
    list(results_in_order([item(number, number % 2) for number in range(16)], run, batch_size=4))
    assert [len(batch) for batch in run.batches] == [4, 4, 4, 4]


def test_an_odd_image_does_not_wait_for_ever() -> None:
    taken = 0

    def source() -> Iterator[Prepared]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield item(number, 1 if number == 0 else 2)

    next(results_in_order(source(), Recorder(), batch_size=4))
    assert taken <= 4 * 4 + 1


def test_results_before_a_failure_come_first() -> None:
    def source() -> Iterator[Prepared]:
        yield item(0, 1)
        yield item(1, 2)
        raise RuntimeError("the camera is gone")

    pairs = results_in_order(source(), Recorder(), batch_size=4)
    assert [next(pairs)[1], next(pairs)[1]] == ["result of 0", "result of 1"]
    with pytest.raises(RuntimeError, match="the camera is gone"):
        next(pairs)


class Flights:
    """Begins batches, and records how many are in flight."""

    def __init__(self, *, fails: int | None = None) -> None:
        self.open: list[Flight] = []
        self.max = 0
        self.begun = 0
        self.fails = fails

    def __call__(self, batch: list[Placed]) -> Flight:
        self.begun += 1
        flight = Flight(self, [f"result of {placed.image.name}" for placed in batch], self.begun == self.fails)
        self.open.append(flight)
        self.max = max(self.max, len(self.open))
        return flight


class Flight:
    def __init__(self, flights: Flights, results: list[str], fails: bool) -> None:
        self.flights = flights
        self.results = results
        self.fails = fails

    def result(self) -> list[str]:
        if self.fails:
            raise RuntimeError("the network failed")
        return self.results

    def close(self) -> None:
        self.flights.open.remove(self)


@given(st.lists(st.integers(1, 3), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_batches_in_flight_keep_order_and_bound(canvases: list[int], batch_size: int, in_flight: int) -> None:
    flights = Flights()
    items = [item(number, canvas) for number, canvas in enumerate(canvases)]
    pairs = list(results_in_order(items, flights, batch_size=batch_size, in_flight=in_flight))
    assert [result for _, result in pairs] == [f"result of {number}" for number in range(len(items))]
    assert flights.max <= in_flight
    assert flights.open == []


def test_the_next_batch_is_submitted_before_a_result_is_fetched() -> None:
    flights = Flights()
    pairs = results_in_order([item(number, 1) for number in range(6)], flights, batch_size=1, in_flight=2)
    assert next(pairs)[1] == "result of 0"
    assert flights.begun == 2
    assert len(flights.open) == 1
    pairs.close()
    assert flights.open == []


def test_results_are_fetched_while_the_next_image_is_not_ready() -> None:
    flights = Flights()

    def source() -> Iterator[Placed | NotReady]:
        yield item(0, 1)
        yield NotReady()
        raise AssertionError("the next image was requested before the result was yielded")

    assert next(results_in_order(source(), flights, batch_size=1, in_flight=2))[1] == "result of 0"


def test_a_failure_leaves_nothing_in_flight() -> None:
    flights = Flights(fails=2)
    pairs = results_in_order([item(number, 1) for number in range(9)], flights, batch_size=1, in_flight=3)
    assert next(pairs)[1] == "result of 0"
    with pytest.raises(RuntimeError, match="the network failed"):
        list(pairs)
    assert flights.open == []


def test_a_canvas_may_allow_fewer() -> None:
    run = Recorder()
    items = [item(number, 1 + number % 2) for number in range(8)]
    list(results_in_order(items, run, batch_size=4, max_at_once=lambda canvas, wanted: min(wanted, canvas[0])))
    assert sorted((batch[0].canvas[0], len(batch)) for batch in run.batches) == [(1, 1)] * 4 + [(2, 2)] * 2


def test_images_prepared_on_the_cpu_have_batches_of_their_own() -> None:
    run = Recorder()
    bare = [Placed(image=item(n, 1).image, resized=(1, 1), canvas=(1, 1)) for n in range(2)]
    ready = [item(n, 1) for n in range(2, 4)]
    list(results_in_order([bare[0], ready[0], bare[1], ready[1]], run, batch_size=4))
    assert sorted(len(batch) for batch in run.batches) == [2, 2]
    assert all(len({type(placed) for placed in batch}) == 1 for batch in run.batches)
