"""Numbers from samples: percentiles, ratios within rounds, and whether two candidates can be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from frcnn.benchmarks.report.results import Measure, Ratio, Scope

Rounds = Sequence[Sequence[float]]
"""Milliseconds of every call, one sequence per round."""

_CONFIDENCE = 0.95


def ratio_between(reference: Rounds, own: Rounds) -> Ratio:
    """Return how many times as fast a candidate is as its reference, from the rounds that both ran.

    Both ran the same images in a round, so neither images nor drift slower than a round change its ratio.
    """
    ratios = sorted(math.fsum(theirs) / math.fsum(ours) for theirs, ours in zip(reference, own, strict=False))
    low, high = interval_of_median(ratios)
    return Ratio(median=median(ratios), min=ratios[0], max=ratios[-1], low=low, high=high, rounds=len(ratios))


def interval_of_median(ordered: Sequence[float]) -> tuple[float, float]:
    """Return two of the rising values that hold the true median with 95 %, whatever the distribution.

    A value is below the median as often as not, so the chance that the interval from the k-th smallest to the k-th
    largest misses it is a binomial tail. Fewer than 6 values have no such pair: it is then min to max.
    """
    count = len(ordered)
    outside, skip = 0.0, 0
    for k in range((count - 1) // 2):
        outside += 2 * math.comb(count, k) / 2**count
        if outside > 1 - _CONFIDENCE:
            break
        skip = k
    return ordered[skip], ordered[count - 1 - skip]


def noise_of(null: Ratio) -> float:
    """Return the relative difference that a pair of equal candidates shows: its interval's farther end from 1."""
    return max(abs(null.low - 1), abs(null.high - 1))


def differ(ratio: Ratio, noise: float) -> bool:
    """Return whether a ratio is a difference: its interval leaves 1 out, and its median is beyond the noise."""
    return not ratio.low <= 1 <= ratio.high and abs(ratio.median - 1) > noise


def measure_of(scope: Scope, batch: int, rounds: Rounds, *, warm_up: int, reference: Rounds | None) -> Measure:
    """Return a candidate's measure, compared with the rounds of its reference where it has one."""
    calls = [ms for of_round in rounds for ms in of_round]
    p50, p90, p99 = np.percentile(calls, (50, 90, 99)).tolist()
    mean = fmean(calls)
    return Measure(
        scope=scope,
        batch=batch,
        rounds_ms=tuple(map(tuple, rounds)),
        warm_up=warm_up,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=mean,
        fps=batch / mean * 1e3,
        ratio=None if reference is None else ratio_between(reference, rounds),
    )
