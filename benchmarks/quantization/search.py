"""Find the layers that must stay in float32 for the gate to hold: one group of them after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from frcnn.benchmarks.quantization.gate import Gate, Verdict
from frcnn.runtime import Detections

Run = Callable[[Sequence[str], int, str], Sequence[Detections]]
"""Quantise all groups but some, and detect in the first images of the gate: the groups, how many images, what for."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the whole gate judged.

    Attributes:
        float_groups: the groups of layers in float32, in the order in which they were put back.
    """

    float_groups: tuple[str, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of a search.

    Attributes:
        attempts: models that the whole gate judged, in order; the last is the result, whether or not it passed.
        recovered: by group, how much of the drop its return to float32 alone recovers, in the unit of the drop;
            empty where nothing had to be put back.
        sensitivity_images: on how many images that was measured.
    """

    attempts: tuple[Attempt, ...]
    recovered: Mapping[str, float]
    sensitivity_images: int


def search(groups: Mapping[str, float], gate: Gate, run: Run, *, part: int, progress: Callable[[str], None]) -> Found:
    """Put groups back to float32 until the gate holds.

    First all groups are int8. Where that fails, each group alone is put back, on a part of the images; then they are
    put back together, that which recovers most first, one more at a time. One group at least stays int8.

    Args:
        groups: share of the MACs by group, from 0 to 1. Of two that recover the same, the smaller goes first.
        gate: judges.
        run: makes a model and detects with it.
        part: images for the sensitivity of each group.
        progress: told what each model loses, in a line.
    """

    def attempt(float_groups: tuple[str, ...], what: str) -> Sequence[Detections]:
        found = run(float_groups, len(gate), what)
        attempts.append(Attempt(float_groups=float_groups, verdict=gate.judge(found)))
        progress(f"{what}: {attempts[-1].verdict.text}")
        return found

    attempts: list[Attempt] = []
    found = attempt((), "int8")
    if attempts[0].verdict.passed:
        return Found(attempts=tuple(attempts), recovered={}, sensitivity_images=0)

    few = gate.part(part)
    drop = few.judge(found[: len(few)]).drop
    recovered: dict[str, float] = {}
    for number, group in enumerate(groups, start=1):
        what = f"{group} in float32"
        recovered[group] = drop - few.judge(run((group,), len(few), what)).drop
        progress(f"{what}: recovers {recovered[group]:.2f} ({number} of {len(groups)} groups, on {len(few)} images)")
    order = sorted(groups, key=lambda name: (-recovered[name], groups[name]))
    for count in range(1, len(order)):
        attempt(tuple(order[:count]), f"{', '.join(order[:count])} in float32")
        if attempts[-1].verdict.passed:
            break
    return Found(attempts=tuple(attempts), recovered=recovered, sensitivity_images=len(few))
