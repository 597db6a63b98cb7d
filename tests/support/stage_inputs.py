"""Inputs of RegionProposals and BoxDetections on which every face must decide alike.

Exp differs between libraries in its last bits, so decisions are made not to depend on it. In *exact* inputs dw and dh
are 0, above a limit of 0, or no numbers, so that boxes are equal bit by bit. Logits are equal, or so far apart that
their scores are in one order everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DetectionsForm", "anchors_of", "box_predictions", "image_sizes", "present_rois", "rpn_predictions"]

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True, kw_only=True)
class DetectionsForm:
    """BoxDetections with attributes; a limit of 0 on dw and dh makes boxes exact."""

    most: int
    iou: float = 0.5
    score: float = 0.05
    min_size: float = 1e-2
    max_log_scale: float = 0.0
    box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    element: torch.dtype = torch.float32

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "box_weights": self.box_weights,
            "max_log_scale": self.max_log_scale,
            "score_threshold": self.score,
            "iou_threshold": self.iou,
            "min_size": self.min_size,
            "max_detections": self.most,
        }


def _of_one_sigmoid(logits: Sequence[float]) -> list[float]:
    """Return the logits whose sigmoid is the same in all places of a tensor: PyTorch's differs in a tensor's tail."""
    return [logit for logit in logits if len(torch.full((33,), logit).sigmoid().unique()) == 1]


LOGITS = _of_one_sigmoid([i / 4 for i in range(-40, 41)])
EXTREME_LOGITS = [NAN, INF, -INF, *_of_one_sigmoid([50.0, 60.0, -60.0, -61.0, -62.0])]


def anchors_of(per_cell: Sequence[int]) -> tuple[float, ...]:
    """Return the attribute ``anchors``: boxes of several sizes and shapes, larger on coarser levels, none centred."""
    rows = []
    for level, count in enumerate(per_cell):
        for anchor in range(count):
            width, height = 12.0 * 1.5**level + 5 * anchor, 10.0 * 1.5**level + 9 * (anchor % 2)
            rows += [float(level), 1 - width / 2, -height / 2, 1 + width / 2, height / 2]
    return tuple(np.float32(rows).tolist())


def image_sizes(rng: np.random.Generator, images: int, canvas: tuple[int, int]) -> Tensor:
    """Return (N, 2) int32, (height, width) of images of any size on a canvas."""
    return torch.from_numpy(rng.integers(np.array(canvas) // 2, np.array(canvas) + 1, (images, 2)).astype(np.int32))


def exact_deltas(rng: np.random.Generator, shape: tuple[int, ...], broken: float) -> NDArray[np.float32]:
    """Return (..., 4): dx and dy of any size; dw and dh of 0 or more; a share ``broken`` of all is NaN or infinite."""
    deltas = rng.normal(0, 0.5, shape).astype(np.float32)
    deltas[..., 2:] = rng.choice(np.float32([0, 0, 1.5]), (*shape[:-1], 2))
    is_broken = rng.uniform(size=shape) < broken
    return np.where(is_broken, rng.choice(np.float32([NAN, INF, -INF]), shape), deltas)


def rpn_predictions(
    rng: np.random.Generator,
    images: int,
    per_cell: Sequence[int],
    *,
    cells: tuple[int, int],
    broken: float = 0.0,
    element: torch.dtype = torch.float32,
    exact: bool = True,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return images (N, 3, H, W), objectness and deltas of each level; the finest has ``cells``, the next ones half.

    Logits are few different numbers, so that many are equal.
    """
    objectness, deltas = [], []
    for level, anchors in enumerate(per_cell):
        height, width = (-(-size // 2**level) for size in cells)
        logits = rng.choice(LOGITS, (images, anchors, height, width))
        is_broken = rng.uniform(size=logits.shape) < broken
        logits = np.where(is_broken, rng.choice(EXTREME_LOGITS, logits.shape), logits)
        values = exact_deltas(rng, (images, anchors, height, width, 4), broken / 4)
        if not exact:
            values = rng.normal(0, 0.5, values.shape)
        planes = np.moveaxis(values, -1, 2).reshape(images, 4 * anchors, height, width)
        objectness.append(torch.from_numpy(logits).to(element))
        deltas.append(torch.from_numpy(planes).to(element))
    height, width = (8 * size + int(rng.integers(0, 8)) for size in cells)
    return torch.zeros(images, 3, height, width, dtype=element), objectness, deltas


def present_rois(rng: np.random.Generator, images: int, per_image: int, canvas: tuple[int, int]) -> Tensor:
    """Return (N, R, 4) RoIs on a canvas, most of them overlapping others."""
    corners = rng.uniform(0, 0.6, (images, per_image, 2)) * canvas[::-1]
    sides = rng.uniform(0.05, 0.4, (images, per_image, 2)) * canvas[::-1]
    return torch.from_numpy(np.concatenate([corners, corners + sides], axis=2).astype(np.float32))


def box_predictions(
    rng: np.random.Generator,
    rois: int,
    classes: int,
    *,
    score_threshold: float,
    broken: float = 0.0,
    element: torch.dtype = torch.float32,
    exact: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return class logits (rois, C) and box deltas (rois, 4 C).

    Rows of logits are four, repeated, and classes in a row share a logit, so that many scores are equal.
    """
    rows = _rows_of_logits(rng, classes, score_threshold, element)
    logits = rows[torch.from_numpy(rng.integers(0, len(rows), rois))]
    is_broken = torch.from_numpy(rng.uniform(size=logits.shape) < broken / classes)
    values = torch.from_numpy(rng.choice([NAN, INF, -INF], logits.shape)).to(element)
    deltas = exact_deltas(rng, (rois, classes, 4), broken / 4)
    if not exact:
        deltas = rng.normal(0, 0.5, deltas.shape)
    return torch.where(is_broken, values, logits), torch.from_numpy(deltas.reshape(rois, -1)).to(element)


def _rows_of_logits(rng: np.random.Generator, classes: int, score_threshold: float, element: torch.dtype) -> Tensor:
    """Return (4, C): softmax gives scores that are equal, or apart from each other and the threshold by 1e-5."""
    while True:
        rows = torch.from_numpy(rng.normal(0, 2, (4, classes))).to(element)
        rows[:, -1] = rows[:, classes // 2]
        scores = rows.double().softmax(1)[:, 1:].unique()
        apart = torch.cat([scores, scores.new_tensor([score_threshold])]).sort().values
        if bool((apart.diff() > 1e-5 * apart[1:]).all()):
            return rows
