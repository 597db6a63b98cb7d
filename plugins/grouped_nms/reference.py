"""Reference of GroupedNMS in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["grouped_nms"]


def grouped_nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float) -> Tensor:
    """Suppress boxes inside each group, as ``torchvision.ops.nms`` does.

    Args:
        boxes: (G, M, 4) float32, x1, y1, x2, y2.
        scores: (G, M) float32; below 0 or NaN marks an absent box.
        iou_threshold: a box is suppressed when its IoU with a kept box of higher score is greater.

    Returns:
        (G, M) float32: the scores, -1 where a box is suppressed or absent.
    """
    kept_scores = torch.full_like(scores, -1.0)
    for group_boxes, group_scores, group_kept in zip(boxes, scores, kept_scores, strict=True):
        present = torch.nonzero(group_scores >= 0).squeeze(1)
        kept = present[nms(group_boxes[present], group_scores[present], iou_threshold)]
        group_kept[kept] = group_scores[kept]
    return kept_scores
