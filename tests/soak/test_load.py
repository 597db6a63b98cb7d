"""Load: 32 threads on one detector, 100,000 images, 200 detectors; the same bits and no growth."""

from __future__ import annotations

from typing import Any

import pytest
from support.concurrent_calls import ConcurrentCalls, bits, mixed_images
from support.fake_device import FakeDevice
from support.load_runs import apart, many_detectors, many_images, many_threads
from support.simt import require_compiler
from support.tiny_artifact import TinyArtifact

from frcnn.runtime import Detector

pytestmark = pytest.mark.soak

THREADS = 32
MIN_LEAK_A_DETECTOR_BYTES = 50_000  # one that is kept holds several times as much

Figures = dict[str, Any]


@pytest.fixture(scope="module")
def report(record):
    """What the tests of this module found; those that failed put nothing in."""
    figures: Figures = {}
    yield figures
    record("load", figures)


def require_clean(figures: Figures) -> None:
    assert not figures["torch_is_loaded"]
    assert not figures["wrong"]
    assert figures["complaints"] == []


def test_32_threads_get_the_bits_of_one(tiny_model, full, report):
    seconds, warm_up = (600, 60) if full else (60, 45)
    figures = apart(many_threads, tiny_model, THREADS, seconds, warm_up)
    require_clean(figures)
    assert figures["images"] >= (100_000 if full else 10_000)
    report["threads"] = figures


def test_100_000_images_leave_nothing(tiny_model, full, report):
    count = 100_000 if full else 20_000
    figures = apart(many_images, tiny_model, count, 15_000)
    require_clean(figures)
    report["images"] = figures


def test_200_detectors_leave_nothing(tiny_model, report):
    figures = apart(many_detectors, tiny_model, 200, 200, MIN_LEAK_A_DETECTOR_BYTES)
    require_clean(figures | {"wrong": 0})
    report["detectors"] = figures


def test_32_threads_on_an_engine_allocate_nothing_on_the_device(tiny_model, full, report):
    """The device lies in this process's memory, so what counts is what was asked of it."""
    require_compiler()
    with Detector.load(tiny_model, threads=1) as portable:
        manifest = portable.manifest
    device, images = FakeDevice(), mixed_images()
    device.activate()
    with Detector(TinyArtifact(manifest).backend(device, workers=4), manifest) as detector:
        expected = [bits(found) for found in detector(images)]
        warm, calls = (ConcurrentCalls(detector, images, expected, THREADS) for _ in range(2))
        warm.run(10)
        before = device.calls.copy()
        calls.run(60 if full else 30)
        made = device.calls - before
    assert warm.wrong == calls.wrong == []
    assert set(made) == {"activate", "copy", "graph launch", "synchronize"}
    assert device.misuses == []
    assert device.left_open() == {}
    report["engine_threads"] = {"threads": THREADS, "images": calls.done, "wrong": [], "calls": dict(made)}
