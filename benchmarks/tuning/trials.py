"""The settings that there are on a machine, their trials, which go to the last round, and which one is chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

import numpy as np
from msgspec.structs import replace

from frcnn.benchmarks.parity.comparison import ImageParity, Limits, total
from frcnn.spec.tuning import ARITHMETIC, HOST_PROVIDERS, HostProvider, Setting, Trial, TrialStatus

MIN_COMPARED: Final = 10
"""Fewer detections of the float model tell nothing of a lower precision, of which a share may differ."""

_TELLING_MS: Final = 300.0
_TELLING_CALLS: Final = 4
"""How much is timed before a setting is called slow."""


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A trial in progress: the times of a setting, and how its detections compare with the float model's."""

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


_BATCHES: Final = (2, 4)
_TIED: Final = 0.02
"""Below what two runs of one setting differ by on an idle machine, and below the 3 % that a choice may miss."""

_BATCH_GAIN: Final = 0.05
"""A batch makes the first of its images wait for the last: it must gain more than this."""


def base_settings(
    providers: Collection[HostProvider], *, has_int8: bool, has_bf16: bool, processors: int
) -> list[Setting]:
    """Return one setting of each model, provider and precision: all processors, one image at a time.

    The first is the reference: the model itself, in float32, by the simplest provider. ONNX Runtime computes in float32
    only.
    """
    return [
        Setting(int8=int8, provider=provider, precision=precision, threads=processors, batch=1)
        for int8, precision, provider in product((False, True), ARITHMETIC, HOST_PROVIDERS)
        if provider in providers
        and (has_int8 or not int8)
        and (precision == "fp32" or (has_bf16 and provider != "cpu"))
    ]


def with_fewer_threads(setting: Setting) -> Iterator[Setting]:
    """Yield the setting with half the threads, and with one: a second thread of a core may slow the first."""
    for threads in dict.fromkeys((setting.threads // 2, 1)):
        if 1 <= threads < setting.threads:
            yield replace(setting, threads=threads)


def with_batches(setting: Setting) -> Iterator[Setting]:
    """Yield the setting with larger batches."""
    for batch in _BATCHES:
        yield replace(setting, batch=batch)


def nearest(attempts: Sequence[Attempt], *, within: float, at_most: int) -> list[Attempt]:
    """Return the attempts that agree and take at most ``within`` times as long as the fastest, the best first.

    Of those that tie with the fastest the simplest is the best.
    """
    costs = {a.setting: _cost(a.setting, a.median_ms) for a in attempts if a.status == "agrees"}
    fastest = min(costs.values(), default=0.0)

    def rank(attempt: Attempt) -> tuple[object, ...]:
        cost = costs[attempt.setting]
        return (0, _simplicity(attempt.setting)) if cost <= fastest * (1 + _TIED) else (1, cost)

    near = [a for a in attempts if a.setting in costs and costs[a.setting] <= within * fastest]
    return sorted(near, key=rank)[:at_most]


def choose(ms: Mapping[Setting, float]) -> Setting:
    """Return the setting to run with: the simplest of those that are as fast as the fastest.

    Args:
        ms: milliseconds of an image, by setting; at least one.
    """
    costs = {setting: _cost(setting, value) for setting, value in ms.items()}
    limit = min(costs.values()) * (1 + _TIED)
    return min((setting for setting, cost in costs.items() if cost <= limit), key=_simplicity)


def _cost(setting: Setting, ms: float) -> float:
    return ms * (1 + _BATCH_GAIN) if setting.batch > 1 else ms


def _simplicity(setting: Setting) -> tuple[bool, int, int, int, int]:
    """Return a key that is lower for the setting that wins where two are as fast.

    The model itself before int8, float32 before bf16, ONNX Runtime before OpenVINO, one image at a time, all threads.
    """
    return (
        setting.int8,
        ARITHMETIC.index(setting.precision),
        list(HOST_PROVIDERS).index(setting.provider),
        setting.batch,
        -setting.threads,
    )
