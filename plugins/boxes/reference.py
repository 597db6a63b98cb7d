"""Box arithmetic on padded batches in PyTorch, after torchvision's ``detection/_utils.py`` and ``ops/boxes.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float], max_log_scale: float) -> Tensor:
    """Decode predicted deltas to boxes, like ``BoxCoder.decode_single``: all (..., 4) float32.

    Deltas are (dx, dy, dw, dh), divided by ``weights``; anchors, which broadcast with them, and boxes (x1, y1, x2, y2).
    ``max_log_scale`` is the upper limit of dw and dh (``bbox_xform_clip``).
    """
    top_left, bottom_right = anchors.split(2, dim=-1)
    sizes = bottom_right - top_left
    centers = top_left + 0.5 * sizes

    shifts, log_scales = (deltas / deltas.new_tensor(weights)).split(2, dim=-1)
    new_centers = shifts * sizes + centers
    half_sizes = 0.5 * (torch.exp(log_scales.clamp(max=max_log_scale)) * sizes)
    return torch.cat([new_centers - half_sizes, new_centers + half_sizes], dim=-1)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clip boxes (N, ..., 4) float32, as (x1, y1, x2, y2), to their own image, like ``clip_boxes_to_image``.

    ``image_sizes`` (N, 2) are (height, width) of each resized image.
    """
    widths_heights = image_sizes.to(boxes.dtype).flip(1)
    limits = torch.cat([widths_heights, widths_heights], dim=1).reshape(-1, *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def is_larger(boxes: Tensor, min_size: float) -> Tensor:
    """Return whether both sides are >= ``min_size`` pixels, like ``remove_small_boxes``: (..., 4) to (...) bool."""
    top_left, bottom_right = boxes.split(2, dim=-1)
    shorter_side: Tensor = (bottom_right - top_left).amin(-1)
    return shorter_side >= min_size


def keep_best(boxes: Tensor, scores: Tensor, is_candidate: Tensor, iou_threshold: float) -> Tensor:
    """Apply ``torchvision.ops.nms`` inside each group: (G, M, 4), (G, M), (G, M) bool to which are kept, (G, M) bool.

    Equal scores are visited by rising index.
    """
    kept = torch.zeros_like(is_candidate)
    for group_boxes, group_scores, candidates, group_kept in zip(boxes, scores, is_candidate, kept, strict=True):
        present = torch.nonzero(candidates).squeeze(1)
        group_kept[present[nms(group_boxes[present], group_scores[present], iou_threshold)]] = True
    return kept
