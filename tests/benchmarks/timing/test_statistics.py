"""Percentiles, ratios within rounds, and telling candidates apart."""

from __future__ import annotations

import numpy as np
import pytest

from frcnn.benchmarks.report.results import Ratio
from frcnn.benchmarks.timing.statistics import (
    differ,
    interval_of_median,
    measure_of,
    noise_of,
    ratio_between,
)


def test_a_ratio_is_taken_within_rounds() -> None:
    # the system is ten times slower in the second round, for both
    eager, ours = [[100, 100], [1000, 1000], [300, 100]], [[50, 50], [500, 500], [100, 100]]
    ratio = ratio_between(eager, ours)
    assert (ratio.min, ratio.median, ratio.max, ratio.rounds) == (2.0, 2.0, 2.0, 3)


def test_a_candidate_that_stopped_early_is_compared_on_the_rounds_that_it_has() -> None:
    assert ratio_between([[100], [100], [900]], [[50], [25]]).rounds == 2


@pytest.mark.parametrize(("count", "skipped"), [(1, 0), (2, 0), (5, 0), (6, 0), (9, 1), (12, 2), (16, 3), (50, 17)])
def test_the_interval_of_the_median_is_the_sign_tests(count, skipped) -> None:
    # the tables of order statistics: n = 9 -> 2nd and 8th, n = 12 -> 3rd and 10th, n = 16 -> 4th and 13th
    values = [float(i) for i in range(count)]
    assert interval_of_median(values) == (float(skipped), float(count - 1 - skipped))


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(2000):
        low, high = interval_of_median(sorted(random.exponential(size=12)))
        hits += low <= np.log(2) <= high
    assert hits / 2000 >= 0.95 - 0.01


def ratio(low: float, middle: float, high: float) -> Ratio:
    return Ratio(median=middle, min=low, max=high, low=low, high=high, rounds=9)


def test_candidates_differ_only_beyond_the_noise() -> None:
    noise = noise_of(ratio(0.97, 1.0, 1.01))
    assert noise == pytest.approx(0.03)
    assert differ(ratio(1.5, 1.6, 1.7), noise)
    assert differ(ratio(0.5, 0.6, 0.7), noise)
    assert not differ(ratio(0.9, 1.2, 1.3), noise)  # the interval holds 1
    assert not differ(ratio(1.01, 1.02, 1.03), noise)  # beyond 1, within the noise


def test_a_measure_counts_images_not_calls() -> None:
    measure = measure_of("images", 4, [[100.0, 300.0], [200.0, 200.0]], warm_up=2, reference=[[400.0, 400.0]] * 2)
    assert (measure.p50_ms, measure.mean_ms, measure.fps) == (200.0, 200.0, 4 / 0.2)
    assert measure.ratio is not None and measure.ratio.median == 2.0
    assert measure.p99_ms == pytest.approx(297.0)
