"""support.growth: a leak is seen, noise is not taken for one."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from support.growth import MIN_LEAK_BYTES, Growth, Sample, slope_of
from support.processes import run_python

IMAGES = 10_000  # of a sample of the load; the full run has ten times as many


def measured(leak_bytes: float, *, seed: int, images: int = IMAGES, leak_objects: float = 0) -> Growth:
    """Return made-up samples: noise that wanders, odd peaks, and a leak."""
    rng = np.random.default_rng(seed)
    growth = Growth()
    wander = 0.0
    for done in np.linspace(0, images, 200).astype(int).tolist():
        wander = 0.5 * wander + rng.normal(0, 40_000)
        peak = 5_000_000 if rng.random() < 0.03 else 0
        rss = 200_000_000 + int(wander + peak + leak_bytes * done)
        blocks = 300_000 + int(rng.normal(0, 1000) + leak_objects * done)
        growth.add(Sample(done=done, rss_bytes=rss, blocks=blocks, descriptors=5, threads=3))
    growth.rest()
    growth.rest()
    return growth


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_seen_and_noise_is_not_taken_for_one(seed):
    assert measured(0, seed=seed).complaints() == []
    (complaint,) = measured(MIN_LEAK_BYTES, seed=seed).complaints()
    assert "rss_bytes may grow" in complaint
    (complaint,) = measured(0, seed=seed, leak_objects=1).complaints()
    assert "blocks may grow" in complaint


def test_a_run_too_short_to_exclude_a_leak_fails():
    assert measured(0, seed=0, images=IMAGES // 50).complaints() != []


def test_the_slope_is_the_leak():
    slope = measured(300, seed=1).slope("rss_bytes")
    assert slope.low < 300_000 < slope.high
    assert slope.per_1000 == pytest.approx(300_000, rel=0.1)
    assert slope_of(range(0, 1000, 10), [2 * i for i in range(0, 1000, 10)]).per_1000 == pytest.approx(2000)


@pytest.mark.slow
def test_an_open_file_and_a_thread_are_seen():
    growth, stop = measured(0, seed=0), threading.Event()
    descriptors = os.pipe()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    growth.rest()
    before = growth.at_rest[0]
    assert growth.complaints() == [
        f"descriptors went from {before.descriptors} to {before.descriptors + 2}",
        f"threads went from {before.threads} to {before.threads + 1}",
    ]
    stop.set()
    thread.join()
    for descriptor in descriptors:
        os.close(descriptor)
    growth.rest()
    assert growth.complaints() == []


# In a process of its own: in one that has freed much already, what leaks takes no new memory from the system.
MEASURED = """
import json
from support.growth import MIN_LEAK_BYTES, Growth
kept, flat, leaking = [], Growth(), Growth()
for growth in (flat, leaking):
    growth.rest()
    for done in range(0, 100_000, 500):
        made = [bytes(MIN_LEAK_BYTES) for _ in range(500)]
        if growth is leaking:
            kept += made
        del made
        growth.take(done)
    growth.rest()
print(json.dumps([flat.complaints(), leaking.complaints(), leaking.slope("blocks").per_1000]))
"""


def test_a_process_is_measured():
    """Memory that is kept, and memory that is given back."""
    flat, leaking, blocks = json.loads(run_python(MEASURED))
    assert flat == []
    memory, objects = leaking
    assert "rss_bytes may grow" in memory and "blocks may grow" in objects
    assert blocks == pytest.approx(1000, rel=0.05)
