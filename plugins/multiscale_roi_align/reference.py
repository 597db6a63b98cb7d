"""Reference of MultiscaleRoIAlign in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.ops import roi_align

from frcnn.plugins.roi_pooling.levels import pool_by_level


def multiscale_roi_align(
    rois: Tensor,  # (N, R, 4) float32, x1, y1, x2, y2 in canvas pixels; absent ones as in the spec
    features: Sequence[Tensor],  # L maps (N, C, Hᵢ, Wᵢ), float32, float16 or bfloat16, finest first
    *,
    output_height: int,
    output_width: int,
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
    sampling_ratio: int,
    aligned: int,
) -> Tensor:
    """Pool with RoIAlign, each RoI from its level; attributes as in the spec.

    Returns:
        (N*R, C, output_height, output_width) in the features' type; 0 for absent RoIs.
    """

    def pool(feature: Tensor, image_rois: Tensor, scale: float) -> Tensor:
        grid = (output_height, output_width)
        pooled: Tensor = roi_align(feature.float(), image_rois, grid, scale, sampling_ratio, bool(aligned))
        return pooled

    return pool_by_level(rois, features, (output_height, output_width), spatial_scales, level_thresholds, pool)
