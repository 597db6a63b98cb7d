"""A trial: a setting is loaded, timed image by image, and compared with the float model's detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from frcnn.benchmarks.parity.comparison import ImageParity, Limits, compare_detections, total
from frcnn.benchmarks.timing.measure import Clock
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.spec import ModelSpec
from frcnn.spec.tuning import Setting, Trial, TrialStatus

__all__ = ["MIN_COMPARED", "Attempt", "Load", "Truth", "timed_ms"]

Load = Callable[[Setting], Detector]
"""Loads a setting; the caller closes it."""

MIN_COMPARED: Final = 10
"""Fewer detections of the float model tell nothing of a lower precision, of which a share may differ."""

_TELLING_MS: Final = 300.0
_TELLING_CALLS: Final = 4
"""How much is timed before a setting is called slow."""


@dataclass(slots=True, kw_only=True)
class Truth:
    """What the float model found.

    Attributes:
        clock: times all detections.
        found: by position of the image.
    """

    spec: ModelSpec
    images: Sequence[RGBImage]
    clock: Clock
    found: dict[int, Detections] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A trial in progress.

    Attributes:
        limits: of agreement with the float model.
        ms: of an image, by call; ``ms_at``: by position of the image, the batch's mean.
        compared: by position of the image.
        status, reason, finalist: see ``Trial``.
    """

    setting: Setting
    limits: Limits
    ms: list[float] = field(default_factory=list)
    ms_at: dict[int, float] = field(default_factory=dict)
    compared: dict[int, ImageParity] = field(default_factory=dict)
    status: TrialStatus = "left out"
    reason: str = ""
    finalist: bool = False

    @property
    def median_ms(self) -> float:
        """The median of an image; infinite before the first."""
        return float(np.median(self.ms)) if self.ms else float("inf")

    def run(self, detector: Detector, truth: Truth, positions: Sequence[int], *, warm_up: bool) -> None:
        """Detect in a batch of images, and keep the time and the comparison.

        Args:
            detector: with the setting.
            truth: of the images.
            positions: of the images; all of one canvas where they are several.
            warm_up: whether an untimed call comes first.
        """
        images = [truth.images[position] for position in positions]
        if warm_up:
            detector(images, batch_size=self.setting.batch)
        ms, found = timed_ms(detector, images, self.setting.batch, truth.clock)
        self.ms.append(ms)
        for position, own in zip(positions, found, strict=True):
            self.ms_at[position] = ms
            expected, name = truth.found[position], truth.images[position].name
            self.compared[position] = compare_detections(expected, own, truth.spec, self.limits, name=name)

    def is_slower(self, best: Attempt, factor: float) -> bool:
        """Return whether each image so far took more than ``factor`` times as long as with the best.

        Where images take long one is enough; the first few of a quick model are within the noise of each other.
        """
        if sum(self.ms) < _TELLING_MS and len(self.ms) < _TELLING_CALLS:
            return False
        return all(ms > factor * best.ms_at[position] for position, ms in self.ms_at.items())

    def judge(self) -> None:
        """Decide from all comparisons whether the detections agree with the float model's."""
        parity = total([*self.compared.values()], self.limits)
        t = parity.total
        if self.limits.rule != "exact" and t.expected < MIN_COMPARED:
            self.status = "unproven"
            self.reason = (
                f"the float model has {t.expected} detections above score {self.limits.min_score:g} in these images, "
                f"{MIN_COMPARED} are needed to judge a lower precision"
            )
        elif not parity.passed:
            self.status = "disagrees"
            self.reason = str(t)
        else:
            self.status, self.reason = "agrees", ""

    def result(self) -> Trial:
        """Return what is known, as the tuned file has it."""
        low, median, high = np.percentile(self.ms, (25, 50, 75)).tolist() if self.ms else (None, None, None)
        return Trial(
            setting=self.setting,
            status=self.status,
            reason=self.reason[:1000],
            median_ms=median,
            low_ms=low,
            high_ms=high,
            calls=len(self.ms),
            images=len(self.compared),
            finalist=self.finalist,
        )


def timed_ms(
    detector: Detector, images: Sequence[RGBImage], batch: int, clock: Clock
) -> tuple[float, list[Detections]]:
    """Detect in images; return milliseconds of one of them, and the detections."""
    started = clock()
    found = detector(list(images), batch_size=batch)
    return (clock() - started) * 1e3 / len(images), found
