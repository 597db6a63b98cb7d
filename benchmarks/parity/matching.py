"""Pair the detections of two detectors in the same image, and tell choices among equal scores from differences.

torchvision keeps one of two boxes that overlap, and the best of a list, by scores. Where these are equal, or closer
than rounding, two correct programs may choose otherwise: a tie. That is proved: the box that was found must be one that
torchvision computes itself, in the same place and of the same score, and drops for another one of that score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.candidate import score_noise
from frcnn.runtime import Detections
from frcnn.runtime.results.merge import box_iou
from frcnn.spec import RoIHeadsSpec

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.eager_detector import Alternatives
    from frcnn.benchmarks.parity.comparison import Limits

Floats = NDArray[np.float32]

_SAME_OBJECT_IOU = 0.5


class Matches(NamedTuple):
    """Which detection of one is which of the other.

    Attributes:
        pairs: (P, 2) int64, index in expected, index in found.
        ious: (P) float32, of each pair.
        only_expected: (E) int64, expected detections without a partner.
        only_found: (F) int64, found detections without a partner.
    """

    pairs: NDArray[np.int64]
    ious: Floats
    only_expected: NDArray[np.int64]
    only_found: NDArray[np.int64]


def match(expected: Detections, found: Detections) -> Matches:
    """Pair detections that overlap by an IoU of 0.5 or more: those of the same label first, then by falling IoU."""
    ious = box_iou(expected.boxes, found.boxes)
    candidates = np.argwhere(ious >= _SAME_OBJECT_IOU)
    rows, columns = candidates.T
    order = np.lexsort((-ious[rows, columns], expected.labels[rows] != found.labels[columns]))
    partners: dict[int, int] = {}
    for row, column in candidates[order].tolist():
        if row not in partners and column not in partners.values():
            partners[row] = column
    pairs = np.array([*partners.items()], np.int64).reshape(-1, 2)
    e, f = pairs.T
    alone = np.setdiff1d(np.arange(len(expected)), e), np.setdiff1d(np.arange(len(found)), f)
    return Matches(pairs, ious[e, f], *alone)


Mask = NDArray[np.bool_]


def equal_detections(a: Detections, b: Detections, limits: Limits) -> Mask:
    """Return which detections are the same, within limits: (A, B)."""
    is_near = np.abs(a.boxes[:, None] - b.boxes[None]).max(-1, initial=0.0) <= limits.box_px
    have_near_scores = np.abs(a.scores[:, None] - b.scores[None]) <= limits.score
    return np.asarray(is_near & _have_one_label(a, b) & have_near_scores)


def find_ties(
    expected: Detections, found: Detections, ask: Callable[..., Alternatives], heads: RoIHeadsSpec, limits: Limits
) -> tuple[Mask, Mask]:
    """Return which of the expected and of the found detections differ by a choice among equal scores only.

    Where something differs torchvision is asked, for a ``noise`` of scores, what it computes besides its detections.
    A found detection is tied if torchvision computes it and drops it for an expected one of the same score, within
    noise, that it overlaps and that was not found; or at the end of a full list; or because its RPN drops the
    proposal likewise. An expected one is tied if a tied one overlaps it and scores as much, within noise, or if it
    or its proposal is at the end of a full list. What a tied detection suppresses in its turn is tied, too.
    """
    same = equal_detections(expected, found, limits)
    if len(expected) == len(found) and same.any(1).all():
        return np.zeros(len(expected), np.bool_), np.zeros(len(found), np.bool_)
    alternatives = ask(noise=limits.score)
    both = (box_iou(found.boxes, found.boxes) > heads.nms_thresh + 1e-3) & _have_one_label(found, found)
    lost, new = np.asarray(~same.any(1)), np.asarray(~same.any(0) & (both.sum(1) <= 1))  # NMS leaves one of two
    is_own, is_other = (equal_detections(found, side, limits).any(1) for side in (alternatives.own, alternatives.tied))
    overlaps = (box_iou(expected.boxes, found.boxes) > heads.nms_thresh) & _have_one_label(expected, found)
    rivals = overlaps & lost[:, None] & new
    ahead = expected.scores[:, None] - found.scores  # (E, F)
    noise = score_noise(expected.scores[:, None], limits.score)
    at_the_end = _at_the_end(found, expected, heads, limits.score)
    is_last = equal_detections(expected, alternatives.last, limits).any(1)
    tied_expected = lost & (is_last | _at_the_end(expected, found, heads, limits.score))
    tied_found = np.zeros_like(new)
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
