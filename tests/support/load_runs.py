"""What the tests of load do to a detector, each in a process of its own that holds nothing else.

A process that has held more before, such as one that exported the model, would serve a leak from what it has left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from frcnn.runtime import Detector
from support.concurrent_calls import ConcurrentCalls, bits, latency_ms, mixed_images
from support.growth import Growth

Figures = dict[str, Any]


def apart(run: Callable[..., Figures], *arguments: Any) -> Figures:
    """Return what a function of this module finds in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def many_threads(model: Path, threads: int, seconds: float, warm_up: float) -> Figures:
    """Let threads detect in arrays, files and PIL images of several sizes."""
    arrays = mixed_images()
    files = [model.with_name(f"{index}.png") for index in range(4)]
    for file, pixels in zip(files, arrays, strict=False):
        Image.fromarray(pixels).save(file)
    images = [*arrays, *files, *(Image.fromarray(pixels) for pixels in arrays[4:8])]
    with Detector.load(model, threads=2) as detector:
        expected = [bits(found) for found in detector(images)]
        for batch_size in (1, 2, 4):  # one thread gives the same bits again, whoever the neighbours are
            assert [bits(found) for found in detector(images, batch_size=batch_size)] == expected
        assert len(set(expected)) == len(arrays)  # a mixed up result would be detected
        list(detector.stream(images))
        idle = _seconds_of_calls(detector, images[0], 2000)
        calls, growth = ConcurrentCalls(detector, images, expected, threads), Growth()
        calls.run(seconds, warm_up=warm_up, growth=growth)
    return {
        "threads": threads,
        "images": calls.done,
        "wrong": calls.wrong,
        "latency_idle": latency_ms(idle),
        "latency_under_load": latency_ms(calls.seconds),
        **_figures(growth),
    }


def many_images(model: Path, count: int, warm_up: int) -> Figures:
    """Detect in small images, one call for each fifty."""
    images, growth, wrong = mixed_images(50), Growth(), 0
    with Detector.load(model, threads=1) as detector:
        expected = [bits(found) for found in detector(images)]
        for done in range(-warm_up, count, len(images)):
            if done == 0:
                growth.rest()
            wrong += [bits(found) for found in detector(images)] != expected
            if done >= 0 and done % 200 == 0:
                growth.take(done)
        growth.rest()
    return {"images": count, "wrong": wrong, **_figures(growth)}


def many_detectors(model: Path, count: int, warm_up: int, leak_bytes: float) -> Figures:
    """Load a detector, use it, leave a stream of it open, and close it."""
    images, growth = mixed_images(8), Growth()
    for done in range(-warm_up, count):
        if done == 0:
            growth.rest()
        with Detector.load(model, threads=2) as detector:
            next(detector.stream(images))
        if done >= 0:
            growth.take(done)
    growth.rest()
    return {"detectors": count, **_figures(growth, leak_bytes=leak_bytes, leak_objects=100)}


def _figures(growth: Growth, **leaks: float) -> Figures:
    return {
        "complaints": growth.complaints(**leaks),
        "growth": growth.figures(),
        "torch_is_loaded": "torch" in sys.modules,
    }


def _seconds_of_calls(detector: Detector, image: Any, calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        detector([image])
        seconds.append(time.perf_counter() - start)
    return seconds
