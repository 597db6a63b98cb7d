"""Compare the detections of an artifact with those of its checkpoint in eager torchvision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from frcnn.benchmarks.parity.matching import find_ties, match
from frcnn.runtime import Detections, Detector
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.image import RGBImage
from frcnn.spec import ModelSpec, PoolerKind, Precision

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.eager_detector import Alternatives, EagerDetector

Rule = Literal["exact", "overlap", "agreement"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as agreement.

    Attributes:
        rule: ``"exact"`` bounds boxes and scores (fp32); ``"overlap"`` bounds the IoU of pairs (lower precisions);
            ``"agreement"`` only asks that detections have a partner (lower precisions with RoI max pooling, which
            rounds RoIs to whole cells, so that a last-bit difference can move a pooled grid by a cell).
        min_score: detections below it do not count.
        box_px: largest difference of a box coordinate in pixels of the image (``exact``).
        score: largest difference of scores (``exact``).
        iou: a pair below it has moved (``overlap``).
        moved: largest share of pairs that may have moved (``overlap``): of two boxes of one object with nearly the
            same score, rounding decides which NMS keeps.
        margin: a detection without a partner counts where its score is more than this above the cut-off: the model's
            score threshold, or the lowest score of a full list.
        unmatched: largest share of the detections above the margin without a partner or with another label.
        tied: largest share of detections that may be tied (``exact``); where more are, or no pair is left, the
            rest shows too little.
    """

    rule: Rule
    min_score: float = 0.0
    box_px: float = 0.01
    score: float = 1e-4
    iou: float = 0.99
    moved: float = 0.0
    margin: float = 1e-3
    unmatched: float = 0.0
    tied: float = 0.75

    def __str__(self) -> str:
        """Return the limits in words."""
        bound = {
            "exact": f"boxes within {self.box_px:g} px, scores within {self.score:g}",
            "overlap": f"above score {self.min_score:g} IoU at least {self.iou:g} for {1 - self.moved:.0%} of pairs",
            "agreement": f"{1 - self.unmatched:.0%} of detections above score {self.min_score:g} agree",
        }[self.rule]
        tied = f"; tied at most {self.tied:.0%}" if self.rule == "exact" else ""
        return f"{bound}; missing or relabelled at most {self.unmatched:.1%}{tied}"


class ImageParity(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one image, or of all together.

    Attributes:
        image: file name, or ``"total"``.
        expected: eager's detections that count; ``found``: the artifact's.
        matched: pairs of one label; ``label_mismatches``: of different ones.
        tied: detections of either side that differ by a choice among equal scores only; they are in no other count of
            pairs and differences.
        unmatched: detections of either side without a partner, above the margin.
        moved: pairs below the limit's IoU.
        box_px: largest difference of a box coordinate among pairs, in pixels of the image; ``score``: of scores.
        iou: lowest IoU among pairs; 1 where there are none.
        eager_ms: time of eager, resizing included, the median for the total; ``model_ms``: the artifact's.
    """

    image: str
    expected: int
    found: int
    matched: int
    tied: int
    label_mismatches: int
    unmatched: int
    moved: int
    box_px: float
    score: float
    iou: float
    eager_ms: float = math.nan
    model_ms: float = math.nan

    def __str__(self) -> str:
        """Return the differences in words."""
        return (
            f"boxes differ by up to {self.box_px:.4g} px, scores by {self.score:.2g}, lowest IoU {self.iou:.4f}, "
            f"{self.moved} moved, {self.unmatched} missing, {self.label_mismatches} relabelled, {self.tied} tied "
            f"of {self.expected} + {self.found}"
        )

    def passes(self, limits: Limits) -> bool:
        """Return whether this is within limits."""
        lost = self.unmatched + self.label_mismatches
        if lost > limits.unmatched * max(1, self.expected + self.found):
            return False
        if self.tied > limits.tied * (self.expected + self.found) or (self.tied and not self.matched):
            return False
        if limits.rule == "exact":
            return self.box_px <= limits.box_px and self.score <= limits.score
        return limits.rule == "agreement" or self.moved <= limits.moved * self.matched


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison: limits, images, total and verdict."""

    limits: Limits
    images: list[ImageParity]
    total: ImageParity
    passed: bool


def default_limits(precision: Precision, pooler: PoolerKind) -> Limits:
    """Return the limits of a trained model; ``docs/explanation/exactness.md`` has what they were measured on."""
    if precision == "fp32":
        return Limits(rule="exact")
    if pooler == "align":
        return {
            "fp16": Limits(rule="overlap", min_score=0.3, margin=0.02, moved=0.02),
            "bf16": Limits(rule="overlap", min_score=0.3, iou=0.97, moved=0.08, margin=0.1, unmatched=0.01),
            "int8": Limits(rule="overlap", min_score=0.3, iou=0.9, moved=0.15, margin=0.15, unmatched=0.01),
        }[precision]
    margin, unmatched = {"fp16": (0.05, 0.05), "bf16": (0.1, 0.05), "int8": (0.15, 0.08)}[precision]
    return Limits(rule="agreement", min_score=0.3, margin=margin, unmatched=unmatched)


def compare_images(
    eager: EagerDetector,
    detector: Detector,
    images: Iterable[RGBImage],
    limits: Limits,
    *,
    canvases: Canvases,
    warm_up: bool = True,
) -> Iterator[ImageParity]:
    """Run both on each image, eager padded to the artifact's canvas, and compare; first once untimed to warm up.

    Raises:
        ImageSizeError: an image fits no canvas of the artifact.
    """
    for image in images:
        canvas = canvases.canvas_of(eager.spec.transform.resized_size(*image.size), name=image.name)
        if warm_up:
            detector([image])
            eager.detect(image, canvas)
            warm_up = False
        start = time.perf_counter()
        (found,) = detector([image])
        between = time.perf_counter()
        expected = eager.detect(image, canvas)
        end = time.perf_counter()
        alternatives = partial(eager.alternatives, image, canvas)
        result = compare_detections(expected, found, eager.spec, limits, name=image.name, alternatives=alternatives)
        yield msgspec.structs.replace(result, eager_ms=(end - between) * 1e3, model_ms=(between - start) * 1e3)


def compare_detections(
    expected: Detections,
    found: Detections,
    spec: ModelSpec,
    limits: Limits,
    *,
    name: str,
    alternatives: Callable[..., Alternatives] | None = None,
) -> ImageParity:
    """Compare the detections of eager (expected) and of the artifact (found) in an image.

    With the ``alternatives`` of eager by noise, which are asked for where something differs, ties are told by the rule
    ``exact``; without, a tie is a difference. Other rules allow for ties by a share that may have moved.
    """
    heads, sides = spec.roi_heads, (expected, found)
    lowest = [float(side.scores.min()) for side in sides if len(side) >= heads.detections_per_img]  # of full lists
    cutoff = max(limits.min_score, heads.score_thresh, *lowest) + limits.margin
    matches = match(expected, found)
    e, f = matches.pairs.T
    tied_e, tied_f = (np.zeros(len(side), np.bool_) for side in sides)
    if limits.rule == "exact" and alternatives is not None:
        tied_e, tied_f = find_ties(expected, found, alternatives, heads, limits)
    is_tied = tied_e[e] & tied_f[f]
    tied_e[e], tied_f[f] = is_tied, is_tied
    counts = (np.maximum(expected.scores[e], found.scores[f]) >= limits.min_score) & ~is_tied
    same = expected.labels[e] == found.labels[f]
    good = counts & same
    wrong = counts & ~same & (np.minimum(expected.scores[e], found.scores[f]) > cutoff)
    alone_e, alone_f = matches.only_expected, matches.only_found
    alone = np.concatenate([expected.scores[alone_e[~tied_e[alone_e]]], found.scores[alone_f[~tied_f[alone_f]]]])
    return ImageParity(
        image=name,
        expected=int((expected.scores >= limits.min_score).sum()),
        found=int((found.scores >= limits.min_score).sum()),
        matched=int(good.sum()),
        tied=int(tied_e.sum() + tied_f.sum()),
        label_mismatches=int(wrong.sum()),
        unmatched=int((alone > cutoff).sum()),
        moved=int((matches.ious[good] < limits.iou).sum()),
        box_px=float(np.abs(expected.boxes[e[good]] - found.boxes[f[good]]).max(initial=0.0)),
        score=float(np.abs(expected.scores[e[good]] - found.scores[f[good]]).max(initial=0.0)),
        iou=float(matches.ious[good].min(initial=1.0)),
    )


def total(images: list[ImageParity], limits: Limits) -> Parity:
    """Add the images up and judge the sum."""
    counts = ("expected", "found", "matched", "tied", "label_mismatches", "unmatched", "moved")
    summary = ImageParity(
        image="total",
        **{name: sum(getattr(image, name) for image in images) for name in counts},
        box_px=max(image.box_px for image in images),
        score=max(image.score for image in images),
        iou=min(image.iou for image in images),
        eager_ms=median(image.eager_ms for image in images),
        model_ms=median(image.model_ms for image in images),
    )
    return Parity(limits=limits, images=images, total=summary, passed=summary.passes(limits))
