"""What a quantised model must hold, AP on annotated images or agreement with the float model, and a search for one.

Agreement is the weaker proof: it shows that the model finds what the float model finds, not that this is right.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from frcnn.benchmarks.accuracy.images import DetectedImage, collect
from frcnn.benchmarks.accuracy.scoring import Measures, score
from frcnn.benchmarks.parity.comparison import Limits, compare_detections, default_limits, total
from frcnn.errors import ImageError, UsageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.dataset.annotations import AnnotatedImage
from frcnn.spec import ModelSpec

Proof = Literal["accuracy", "agreement"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says of a model.

    ``drop`` is how much worse it is than the float model: AP points of 100; or, by agreement, the percentage of both
    models' detections that are missing, relabelled or moved.
    """

    drop: float
    passed: bool  # whether that is within the limit
    text: str  # the drop and its limit in words
    measures: Measures  # COCO's, 0 to 1; or, by agreement, counts of detections and shares of them, 0 to 1


@dataclass
class Gate(ABC):
    """Judges detections of the float model's images, in their order; ``reference`` are the float model's measures."""

    images: Sequence[DetectedImage]  # with the float model's detections
    proof: ClassVar[Proof]
    reference: Measures = field(init=False)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.images)

    @abstractmethod
    def judge(self, found: Sequence[Detections]) -> Verdict:
        """Judge the detections of a model in all images."""

    def part(self, count: int) -> Gate:
        """Return a gate of the first images; of all where those cannot judge."""
        try:
            return replace(self, images=self.images[:count])
        except UsageError:
            return self


@dataclass
class AccuracyGate(Gate):
    """AP on annotated images may fall by ``max_drop`` points of 100; ``categories`` are category ids by class index.

    A float model without AP, or with one of 0, is refused: every model would pass.
    """

    categories: Mapping[int, int]
    max_drop: float
    proof = "accuracy"

    def __post_init__(self) -> None:
        self.reference = self._score([image.model for image in self.images])
        if not self.reference["AP"]:
            nothing = self.reference["AP"] is None
            reason = "no object of the model's classes counts" if nothing else "the float model's AP is 0"
            raise UsageError(
                f"the {len(self)} annotated images of the gate cannot judge: {reason}",
                hint="check that annotations, images and model are of one set: frcnn eval",
            )

    def judge(self, found: Sequence[Detections]) -> Verdict:
        """Judge by the difference of AP."""
        measures = self._score(found)
        drop = 100 * ((self.reference["AP"] or 0.0) - (measures["AP"] or 0.0))
        text = f"AP falls by {drop:.2f} points, at most {self.max_drop:g} are allowed"
        return Verdict(drop=drop, passed=drop <= self.max_drop, text=text, measures=measures)

    def _score(self, found: Sequence[Detections]) -> Measures:
        return score([image.ground_truth for image in self.images], found, self.categories).overall


@dataclass
class AgreementGate(Gate):
    """Detections above score 0.3 must be those of the float model, within the limits of int8; it must have some."""

    spec: ModelSpec
    proof = "agreement"

    def __post_init__(self) -> None:
        self.limits: Limits = default_limits("int8", self.spec.roi_heads.pooler.kind)
        self.reference = self.judge([image.model for image in self.images]).measures
        if not self.reference["detections"]:
            raise UsageError(
                f"the {len(self)} images of the gate cannot judge: the float model finds nothing above score "
                f"{self.limits.min_score:g} in them",
                hint="give images with objects of the model's classes",
            )

    def judge(self, found: Sequence[Detections]) -> Verdict:
        """Judge by pairs of detections."""
        results = [
            compare_detections(image.model, detections, self.spec, self.limits, name=str(image.file))
            for image, detections in zip(self.images, found, strict=True)
        ]
        parity = total(results, self.limits)
        counts, limits = parity.total, self.limits
        both = max(1, counts.expected + counts.found)
        missing = (counts.unmatched + counts.label_mismatches) / both
        text = f"{missing:.1%} of the detections are missing or relabelled, {limits.unmatched:.0%} may be"
        moved = 0.0
        if limits.rule == "overlap":  # with RoI max pooling most move, by rounding alone
            moved = counts.moved / max(1, counts.matched)
            text += f"; {moved:.1%} have moved, {limits.moved:.0%} may have"
        return Verdict(
            drop=100 * (counts.unmatched + 2 * (counts.label_mismatches + counts.moved * bool(moved))) / both,
            passed=parity.passed,
            text=text,
            measures={"detections": counts.found, "pairs": counts.matched, "missing": missing, "moved": moved},
        )


def detect(
    model: Path, files: Mapping[Path, AnnotatedImage], *, threads: int | None, what: str
) -> tuple[list[DetectedImage], float]:
    """Detect in images with ONNX Runtime on the CPU; return the detections, and the mean milliseconds of an image."""
    start = time.monotonic()
    with Detector.load(model, device="cpu", provider="cpu", threads=threads) as detector:
        collected = collect(detector, files, what=what)
    if collected.is_partial:
        raise KeyboardInterrupt
    for reason in collected.skipped.values():
        raise ImageError(f"an image changed while it was in use: {reason}", hint="run it again")
    return collected.images, (time.monotonic() - start) * 1e3 / len(files)


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
