"""Threads that share a detector, whose detections are compared bit for bit with those of one thread alone."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime import Detections, Detector
from support.growth import Growth

SIZES = ((32, 40), (40, 32), (32, 32), (64, 33), (120, 90), (33, 64), (200, 160), (24, 30))


def mixed_images(count: int = 24) -> list[NDArray[np.uint8]]:
    """Return images of several sizes and canvases."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*SIZES[index % len(SIZES)], 3), dtype=np.uint8) for index in range(count)]


def bits(found: Detections) -> tuple[bytes, bytes, bytes]:
    return found.boxes.tobytes(), found.scores.tobytes(), found.labels.tobytes()


def latency_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    times = np.array(seconds)
    p50, p99 = np.percentile(times * 1000, (50, 99))
    return {"calls": len(times), "p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


class ConcurrentCalls:
    """Threads that call one detector with lists and streams of random images, in batches of one to four.

    Each draws from ``images``, seeded by its number; ``expected`` holds the :func:`bits` of their detections. ``wrong``
    collects detections that differed and exceptions, ``seconds`` the time of each call with the first image only.
    """

    def __init__(
        self, detector: Detector, images: Sequence[Any], expected: Sequence[tuple[bytes, bytes, bytes]], threads: int
    ) -> None:
        self._detector = detector
        self._images = images
        self._expected = expected
        self._stop = threading.Event()
        self._counts = [0] * threads
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]
        self.wrong: list[str] = []
        self.seconds = array("d")  # no objects that would be counted as growth

    @property
    def done(self) -> int:
        return sum(self._counts)

    def run(self, seconds: float, *, warm_up: float = 0, growth: Growth | None = None) -> None:
        """Run the threads, and sample the process after the warm-up; wrong detections end the run."""
        if growth is not None:
            growth.rest()
        for thread in self._threads:
            thread.start()
        try:
            start = time.monotonic()
            while (elapsed := time.monotonic() - start) < seconds + warm_up and not self.wrong:
                if growth is not None and elapsed >= warm_up:
                    growth.take(self.done)
                time.sleep(min(1.0, seconds / 200))
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        if growth is not None:
            growth.rest()

    def _work(self, number: int) -> None:
        rng = np.random.default_rng([7, number])
        calls: tuple[Callable[..., Any], ...] = (self._detector, self._detector.stream)
        try:
            while not self._stop.is_set():
                self._alone()
                chosen = rng.integers(len(self._images), size=rng.integers(1, 9)).tolist()
                call = calls[int(rng.random() < 0.2)]
                detections = call([self._images[index] for index in chosen], batch_size=int(rng.integers(1, 5)))
                for index, found in zip(chosen, detections, strict=True):
                    self._check(index, found)
                self._counts[number] += 1 + len(chosen)
        except Exception as error:  # the end of a thread is silent
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _alone(self) -> None:
        start = time.perf_counter()
        (found,) = self._detector(self._images[:1])
        self.seconds.append(time.perf_counter() - start)
        self._check(0, found)

    def _check(self, index: int, found: Detections) -> None:
        if bits(found) != self._expected[index]:
            self.wrong.append(f"image {index}: not the bits of one thread alone")
