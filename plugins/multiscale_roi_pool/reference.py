"""Reference of MultiscaleRoIPool in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.ops import roi_pool

from frcnn.plugins.roi_pooling.levels import pool_by_level


def multiscale_roi_pool(
    rois: Tensor,
    features: Sequence[Tensor],
    *,
    output_height: int,
    output_width: int,
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
) -> Tensor:
    """Pool the maximum of each bin, each RoI from its level.

    For arguments and output see :func:`~frcnn.plugins.multiscale_roi_align.reference.multiscale_roi_align`.
    """

    def pool(feature: Tensor, image_rois: Tensor, scale: float) -> Tensor:
        pooled: Tensor = roi_pool(feature.float(), image_rois, (output_height, output_width), scale)
        return pooled

    return pool_by_level(rois, features, (output_height, output_width), spatial_scales, level_thresholds, pool)
