"""Whether a process grows while it works: samples of what it holds, the slope through them, and the verdict.

The slope is Theil and Sen's, the median of the slopes between all pairs, which a few odd samples do not move. Samples
close in time are alike, so the run is cut into parts and each stands for itself by its median.

"No growth within the noise" means that growth is excluded, not that it was not seen: the upper end of the slope's 95 %
interval must lie below the limit. A run that is too short or too noisy to exclude it fails. The limits are half of a
leak of 100 bytes an image, and half of a leak of one Python object an image. Files and threads come and go while the
process works, so they are counted before and after, at rest.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import theilslopes

MIN_LEAK_BYTES = 100
"""A leak of so much an image is seen."""

_PARTS = 40
_MOMENT_SECONDS = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    done: int
    rss_bytes: int
    blocks: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Growth for each thousand images, and its 95 % interval."""

    per_1000: float
    low: float
    high: float


class Growth:
    """Samples of this process; take one now and then, none before everything is warm.

    Attributes:
        at_rest: what the process held before and after, when nothing worked.
    """

    def __init__(self) -> None:
        self._rows = array("q")  # no objects that would be counted as growth
        self.at_rest: list[Sample] = []

    @property
    def samples(self) -> list[Sample]:
        names = Sample.__slots__
        rows = np.array(self._rows).reshape(-1, len(names)).tolist()
        return [Sample(**dict(zip(names, row, strict=True))) for row in rows]

    def add(self, sample: Sample) -> None:
        """Put a sample in that was taken elsewhere."""
        self._rows.extend(astuple(sample))

    def take(self, done: int) -> None:
        self.add(_sample(done))

    def rest(self) -> None:
        """Take a sample while nothing works; a thread that was joined may need a moment to be gone."""
        until = time.monotonic() + _MOMENT_SECONDS
        while self.at_rest and _sample(0).threads > self.at_rest[0].threads and time.monotonic() < until:
            time.sleep(0.01)
        self.at_rest.append(_sample(0))

    def slope(self, name: str) -> Slope:
        samples = self.samples
        return slope_of([sample.done for sample in samples], [getattr(sample, name) for sample in samples])

    def complaints(self, *, leak_bytes: float = MIN_LEAK_BYTES, leak_objects: float = 1) -> list[str]:
        """Return what may grow by such leaks for each one; empty where growth is excluded."""
        found = []
        for name, leak in (("rss_bytes", leak_bytes), ("blocks", leak_objects)):
            slope = self.slope(name)
            if slope.high >= leak * 1000 / 2:
                found.append(f"{name} may grow by {slope.high:,.0f} in a thousand: {slope}")
        for name in ("descriptors", "threads"):
            before, after = (getattr(self.at_rest[index], name) for index in (0, -1))
            if after > before:
                found.append(f"{name} went from {before} to {after}")
        return found

    def figures(self) -> dict[str, object]:
        samples = self.samples
        return {
            "samples": len(samples),
            "from": asdict(samples[0]),
            "to": asdict(samples[-1]),
            "at_rest": [asdict(self.at_rest[0]), asdict(self.at_rest[-1])],
            "rss_bytes_per_1000": asdict(self.slope("rss_bytes")),
            "blocks_per_1000": asdict(self.slope("blocks")),
        }


def _sample(done: int) -> Sample:
    rss_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        done=done,
        rss_bytes=rss_pages * _PAGE_BYTES,
        blocks=sys.getallocatedblocks(),
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,  # the one that lists them
        threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
    )


def slope_of(done: Sequence[int], values: Sequence[float]) -> Slope:
    """Return the slope through medians of equal parts of a run."""
    parts = [np.median(part, axis=1) for part in np.array_split(np.array([done, values], float), _PARTS, axis=1)]
    x, y = np.array(parts).T
    slope, _, low, high = theilslopes(y, x / 1000, alpha=0.95)
    return Slope(per_1000=float(slope), low=float(low), high=float(high))
