"""Box arithmetic of torchvision (``detection/_utils.py``, ``ops/boxes.py``) on padded batches, in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["clip", "decode", "float32_floor", "is_larger"]


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float], max_log_scale: float) -> Tensor:
    """Move and scale anchors by predicted deltas (``BoxCoder.decode_single``).

    Args:
        deltas: (..., 4) float32, dx, dy, dw, dh.
        anchors: (..., 4) float32, x1, y1, x2, y2; broadcasts against ``deltas``.
        weights: what the four deltas are divided by.
        max_log_scale: limit of dw and dh (``bbox_xform_clip``).

    Returns:
        (..., 4) float32, x1, y1, x2, y2.
    """
    top_left, bottom_right = anchors.split(2, dim=-1)
    sizes = bottom_right - top_left
    centers = top_left + 0.5 * sizes

    shifts, log_scales = (deltas / deltas.new_tensor(weights)).split(2, dim=-1)
    new_centers = shifts * sizes + centers
    half_sizes = 0.5 * (torch.exp(log_scales.clamp(max=max_log_scale)) * sizes)
    return torch.cat([new_centers - half_sizes, new_centers + half_sizes], dim=-1)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clip boxes to their own image (``clip_boxes_to_image``).

    Args:
        boxes: (N, ..., 4) float32, x1, y1, x2, y2.
        image_sizes: (N, 2) float32, height and width of each resized image.
    """
    widths_heights = image_sizes.flip(1)
    limits = torch.cat([widths_heights, widths_heights], dim=1).reshape(-1, *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def is_larger(boxes: Tensor, min_size: float) -> Tensor:
    """Return where both sides are at least ``min_size`` pixels (``remove_small_boxes``): (..., 4) to (...) bool."""
    top_left, bottom_right = boxes.split(2, dim=-1)
    shorter_side: Tensor = (bottom_right - top_left).amin(-1)
    return shorter_side >= min_size


def float32_floor(value: float) -> float:
    """Return the largest float32 that is <= ``value``.

    torchvision compares a float32 IoU with a float64 threshold; comparing it with this one gives the same answer.
    """
    nearest = torch.tensor(value, dtype=torch.float32)
    if float(nearest) > value:
        nearest = torch.nextafter(nearest, torch.tensor(-math.inf))
    return float(nearest)
