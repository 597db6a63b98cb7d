"""Groups are put back to float32 in the order of what they recover, until the gate holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frcnn.benchmarks.accuracy.scoring import Measures
from frcnn.benchmarks.quantization.gate import Proof, Verdict, search

COSTS = {"stem": 0.5, "body": 0.1, "fpn": 0.0, "rpn": 0.2, "head": 0.5}
SHARES = {"stem": 0.1, "body": 0.5, "fpn": 0.2, "rpn": 0.1, "head": 0.05}
IMAGES = 10


class Sum:
    """A gate whose drop is the sum of the costs of the int8 groups: what ``run`` "detects"."""

    def __init__(self, limit: float, count: int = IMAGES) -> None:
        self.proof: Proof = "accuracy"
        self.reference: Measures = {}
        self.limit, self.count = limit, count

    def __len__(self) -> int:
        return self.count

    def judge(self, found: Any) -> Verdict:
        assert len(found) == self.count
        return Verdict(drop=found[0], passed=found[0] <= self.limit, text=f"{found[0]:.1f} lost", measures={})

    def part(self, count: int) -> Sum:
        return Sum(self.limit, min(count, self.count))


class Runs:
    def __init__(self) -> None:
        self.seen: list[tuple[tuple[str, ...], int]] = []

    def __call__(self, float_groups: Sequence[str], count: int, _what: str) -> Any:
        self.seen.append((tuple(float_groups), count))
        return [sum(cost for group, cost in COSTS.items() if group not in float_groups)] * count


def test_a_model_that_passes_is_not_searched_for():
    run, told = Runs(), []
    found = search(SHARES, Sum(2.0), run, part=4, progress=told.append)
    assert run.seen == [((), IMAGES)]
    assert [attempt.float_groups for attempt in found.attempts] == [()]
    assert (found.recovered, found.sensitivity_images) == ({}, 0)
    assert told == ["int8: 1.3 lost"]


def test_the_group_that_recovers_most_goes_first_and_the_smaller_of_equals():
    run, told = Runs(), []
    found = search(SHARES, Sum(0.31), run, part=4, progress=told.append)
    assert [attempt.float_groups for attempt in found.attempts] == [(), ("head",), ("head", "stem")]
    assert [attempt.verdict.passed for attempt in found.attempts] == [False, False, True]
    assert {group: round(value, 6) for group, value in found.recovered.items()} == COSTS
    assert found.sensitivity_images == 4
    assert [count for _, count in run.seen] == [IMAGES, 4, 4, 4, 4, 4, IMAGES, IMAGES]
    assert told[1] == "stem in float32: recovers 0.50 (1 of 5 groups, on 4 images)"
    assert told[-1] == "head, stem in float32: 0.3 lost"


def test_one_group_stays_int8_however_bad_it_is():
    found = search(SHARES, Sum(-1.0), Runs(), part=4, progress=lambda _line: None)
    assert found.attempts[-1].float_groups == ("head", "stem", "rpn", "body")
    assert not found.attempts[-1].verdict.passed
