"""A trial: the times of a setting, image by image, and how its detections compare with the float model's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from frcnn.benchmarks.parity.comparison import ImageParity, Limits, total
from frcnn.spec.tuning import Setting, Trial, TrialStatus

MIN_COMPARED: Final = 10
"""Fewer detections of the float model tell nothing of a lower precision, of which a share may differ."""

_TELLING_MS: Final = 300.0
_TELLING_CALLS: Final = 4
"""How much is timed before a setting is called slow."""


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A trial in progress."""

    setting: Setting
    limits: Limits  # of agreement with the float model
    ms: list[float] = field(default_factory=list)  # of an image, by call
    ms_at: dict[int, float] = field(default_factory=dict)  # by position of the image, the batch's mean
    compared: dict[int, ImageParity] = field(default_factory=dict)  # by position of the image
    status: TrialStatus = "left out"
    reason: str = ""
    finalist: bool = False

    @property
    def median_ms(self) -> float:
        """The median of an image; infinite before the first."""
        return float(np.median(self.ms)) if self.ms else float("inf")

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
