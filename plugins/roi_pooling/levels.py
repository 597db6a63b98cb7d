"""The common part of the RoI pooling references: pool each RoI from its level, skip absent ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pool_by_level(
    rois: Tensor,
    features: Sequence[Tensor],
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
    pool: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Pool padded RoIs level by level, as ``multiscale_roi_align`` documents.

    ``pool`` takes a map (N, C, H, W), RoIs (Rᵢ, 5) with the image's index first and a scale, and returns
    (Rᵢ, C, height, width) float32.
    """
    images, per_image = rois.shape[:2]
    flat = rois.reshape(-1, 4)
    widths, heights = flat[:, 2] - flat[:, 0], flat[:, 3] - flat[:, 1]
    areas = widths * heights
    is_roi = (widths >= 0) & (heights >= 0) & torch.isfinite(areas)
    thresholds = torch.tensor(level_thresholds, dtype=torch.float32, device=rois.device)
    level_of_roi = (areas.sqrt()[:, None] >= thresholds).sum(1)
    image_of_roi = torch.arange(images, device=rois.device).repeat_interleave(per_image)
    image_rois = torch.cat([image_of_roi[:, None].to(flat.dtype), flat], dim=1)

    pooled = features[0].new_zeros((flat.shape[0], features[0].shape[1], *output_size))
    for level, (feature, scale) in enumerate(zip(features, spatial_scales, strict=True)):
        here = torch.nonzero((level_of_roi == level) & is_roi).squeeze(1)
        pooled[here] = pool(feature, image_rois[here], scale).to(pooled.dtype)
    return pooled
