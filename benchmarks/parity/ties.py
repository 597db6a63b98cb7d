"""Tell choices among equal scores from differences: two correct programs round, and may keep another of two boxes.

torchvision keeps one of two boxes that overlap, and the best of a list, by scores. Where these are equal, or closer
than rounding, either choice is right. That is proved: the box that was found must be one that torchvision computes
itself, in the same place and of the same score, and drops for another one of that score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.score_noise import score_noise
from frcnn.benchmarks.parity.matching import box_iou
from frcnn.runtime import Detections
from frcnn.spec import RoIHeadsSpec

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.eager_detector import Alternatives

Mask = NDArray[np.bool_]


def equal_detections(a: Detections, b: Detections, *, box_px: float, score: float) -> Mask:
    """Return which detections are the same, within limits: (A, B)."""
    is_near = np.abs(a.boxes[:, None] - b.boxes[None]).max(-1, initial=0.0) <= box_px
    return np.asarray(is_near & _have_one_label(a, b) & (np.abs(a.scores[:, None] - b.scores[None]) <= score))


def find_ties(
    expected: Detections,
    found: Detections,
    alternatives: Alternatives,
    heads: RoIHeadsSpec,
    *,
    box_px: float,
    score: float,
) -> tuple[Mask, Mask]:
    """Return which of the expected and of the found detections differ by a choice among equal scores only.

    A found detection is tied if torchvision computes it and drops it for an expected one of the same score, within
    noise, that it overlaps and that was not found; or at the end of a full list; or because its RPN drops the
    proposal likewise. An expected one is tied if a tied one overlaps it and scores as much, within noise, or if it
    or its proposal is at the end of a full list. What a tied detection suppresses in its turn is tied, too.
    """
    near = {"box_px": box_px, "score": score}
    same = equal_detections(expected, found, **near)
    both = (box_iou(found.boxes, found.boxes) > heads.nms_thresh + 1e-3) & _have_one_label(found, found)
    lost, new = np.asarray(~same.any(1)), np.asarray(~same.any(0) & (both.sum(1) <= 1))  # NMS leaves one of two
    is_own, is_other = (equal_detections(found, side, **near).any(1) for side in (alternatives.own, alternatives.tied))
    overlaps = (box_iou(expected.boxes, found.boxes) > heads.nms_thresh) & _have_one_label(expected, found)
    rivals = overlaps & lost[:, None] & new
    ahead = expected.scores[:, None] - found.scores  # (E, F)
    noise = score_noise(expected.scores[:, None], score)
    at_the_end = _at_the_end(found, expected, heads, score)
    is_last = equal_detections(expected, alternatives.last, **near).any(1)
    tied_expected, tied_found = lost & (is_last | _at_the_end(expected, found, heads, score)), np.zeros_like(new)
    before = -1
    while (count := int(tied_found.sum() + tied_expected.sum())) > before:
        before, gone = count, tied_expected[:, None]
        beaten = (rivals & ((np.abs(ahead) <= noise) | (gone & (ahead > 0)))).any(0)
        suppressed = (overlaps & (ahead > noise) & np.where(is_other, ~lost[:, None], ~gone)).any(0)
        tied_found |= new & (is_other | (is_own & (beaten | at_the_end))) & ~suppressed
        tied_expected |= (rivals & tied_found & ((ahead <= noise) | is_other)).any(1)
    return tied_expected, tied_found


def _have_one_label(a: Detections, b: Detections) -> Mask:
    return np.asarray(a.labels[:, None] == b.labels[None])


def _at_the_end(side: Detections, other: Detections, heads: RoIHeadsSpec, noise: float) -> Mask:
    """Return which detections of a side score no more than the last of the other's full list."""
    if len(other) < heads.detections_per_img:
        return np.zeros(len(side), np.bool_)
    return np.asarray(side.scores - score_noise(side.scores, noise) <= other.scores.min())
