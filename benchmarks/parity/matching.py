"""Pair the detections of two detectors in the same image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime import Detections

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


def box_iou(a: Floats, b: Floats) -> Floats:
    """Return the IoU of every box of (A, 4) with every one of (B, 4), x1, y1, x2, y2: (A, B) float32."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(bottom_right - top_left, 0, None).prod(-1)
    areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b))
    union = areas_a[:, None] + areas_b[None] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0), np.float32)
