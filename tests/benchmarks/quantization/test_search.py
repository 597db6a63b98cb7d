"""Groups are put back to float32 in the order of what they recover, until the gate holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frcnn.benchmarks.quantization.gate import Verdict
from frcnn.benchmarks.quantization.search import search

COSTS = {"stem": 0.5, "body": 0.1, "fpn": 0.0, "rpn": 0.2, "head": 0.5}
SHARES = {"stem": 0.1, "body": 0.5, "fpn": 0.2, "rpn": 0.1, "head": 0.05}
IMAGES = 10


class Sum:
    """A gate whose drop is the sum of the costs of the int8 groups: what ``run`` "detects"."""

    proof: Any = "accuracy"
    reference: Any = {}

    def __init__(self, limit: float, count: int = IMAGES) -> None:
        self.limit, self.count = limit, count

    def __len__(self) -> int:
        return self.count

    def judge(self, found: Any) -> Verdict:
        assert len(found) == self.count
        return Verdict(drop=found[0], passed=found[0] <= self.limit, measures={})

    def part(self, count: int) -> Sum:
        return Sum(self.limit, min(count, self.count))


class Runs:
    def __init__(self) -> None:
        self.seen: list[tuple[tuple[str, ...], int]] = []

    def __call__(self, float_groups: Sequence[str], count: int, _what: str) -> Any:
        self.seen.append((tuple(float_groups), count))
        return [sum(cost for group, cost in COSTS.items() if group not in float_groups)] * count


def test_a_model_that_passes_is_not_searched_for():
    run = Runs()
    found = search(SHARES, Sum(2.0), run, always=["head"], part=4)
    assert run.seen == [(("head",), IMAGES)]
    assert [attempt.float_groups for attempt in found.attempts] == [("head",)]
    assert (found.recovered, found.sensitivity_images) == ({}, 0)


def test_the_group_that_recovers_most_goes_first_and_the_smaller_of_equals():
    run = Runs()
    found = search(SHARES, Sum(0.31), run, always=[], part=4)
    assert [attempt.float_groups for attempt in found.attempts] == [(), ("head",), ("head", "stem")]
    assert [attempt.verdict.passed for attempt in found.attempts] == [False, False, True]
    assert {group: round(value, 6) for group, value in found.recovered.items()} == COSTS
    assert found.sensitivity_images == 4
    assert [count for _, count in run.seen] == [IMAGES, 4, 4, 4, 4, 4, IMAGES, IMAGES]


def test_one_group_stays_int8_however_bad_it_is():
    found = search(SHARES, Sum(-1.0), Runs(), always=["rpn"], part=4)
    assert found.attempts[-1].float_groups == ("rpn", "head", "stem", "body")
    assert not found.attempts[-1].verdict.passed
    assert "rpn" not in found.recovered
