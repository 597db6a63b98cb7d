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
    """A model that the whole gate judged."""

    float_groups: tuple[str, ...]  # in float32, in the order in which they were put back
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of a search."""

    attempts: tuple[Attempt, ...]  # in order; the last is the result, whether or not it passed
    recovered: Mapping[str, float]  # by group, of the drop, by a return to float32 alone; empty where none was put back
    sensitivity_images: int  # on how many images that was measured


def search(groups: Mapping[str, float], gate: Gate, run: Run, *, part: int, progress: Callable[[str], None]) -> Found:
    """Put groups, with their shares of the MACs, back to float32 until the gate holds.

    First all are int8. Where that fails, each group alone is put back, on a ``part`` of the images; then they are put
    back together, that which recovers most first (of equals the smaller), one more at a time. One at least stays int8.
    ``progress`` is told what each model loses, in a line.
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
