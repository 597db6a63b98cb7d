"""Which settings go to the last round, and which one is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from frcnn.benchmarks.tuning.settings import simplicity
from frcnn.benchmarks.tuning.trials import Attempt
from frcnn.spec.tuning import Setting

__all__ = ["choose", "nearest"]

_TIED: Final = 0.02
"""Below what two runs of one setting differ by on an idle machine, and below the 3 % that a choice may miss."""

_BATCH_GAIN: Final = 0.05
"""A batch makes the first of its images wait for the last: it must gain more than this."""


def nearest(attempts: Sequence[Attempt], *, within: float, at_most: int) -> list[Attempt]:
    """Return the attempts that agree and take at most ``within`` times as long as the fastest, the best first.

    Of those that tie with the fastest the simplest is the best.
    """
    costs = {a.setting: _cost(a.setting, a.median_ms) for a in attempts if a.status == "agrees"}
    fastest = min(costs.values(), default=0.0)

    def rank(attempt: Attempt) -> tuple[object, ...]:
        cost = costs[attempt.setting]
        return (0, simplicity(attempt.setting)) if cost <= fastest * (1 + _TIED) else (1, cost)

    near = [a for a in attempts if a.setting in costs and costs[a.setting] <= within * fastest]
    return sorted(near, key=rank)[:at_most]


def choose(ms: Mapping[Setting, float]) -> Setting:
    """Return the setting to run with: the simplest of those that are as fast as the fastest.

    Args:
        ms: milliseconds of an image, by setting; at least one.
    """
    costs = {setting: _cost(setting, value) for setting, value in ms.items()}
    limit = min(costs.values()) * (1 + _TIED)
    return min((setting for setting, cost in costs.items() if cost <= limit), key=simplicity)


def _cost(setting: Setting, ms: float) -> float:
    return ms * (1 + _BATCH_GAIN) if setting.batch > 1 else ms
