"""The custom operators as functions: nodes of the domain ``frcnn`` during export, else the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from frcnn.plugins import VERSION, grouped_nms, multiscale_roi_align, multiscale_roi_pool
from frcnn.plugins.grouped_nms.reference import grouped_nms as reference_grouped_nms
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as reference_roi_align
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as reference_roi_pool
from frcnn.spec import PoolerSpec

__all__ = ["divide", "nms", "pool_rois"]


def divide(index: Tensor, divisor: int) -> Tensor:
    """Divide indices (int64, >= 0) by a size (an int, or a symbol during export), rounding down.

    PyTorch's exporter writes integer division as six or more nodes that handle signs; ONNX's Div does the same for
    indices, so it is written directly.
    """
    if not torch.compiler.is_exporting():
        return index // divisor
    size = torch.full((), divisor, dtype=index.dtype)
    return torch.onnx.ops.symbolic("Div", (index, size), dtype=index.dtype, shape=index.shape)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Apply GroupedNMS to boxes (G, M, 4) and scores (G, M), float32; return kept scores (G, M), -1 if suppressed."""
    if not torch.compiler.is_exporting():
        return reference_grouped_nms(boxes, scores, iou_threshold=iou_threshold)
    return torch.onnx.ops.symbolic(
        grouped_nms.SPEC.qualified_name,
        (boxes, scores),
        {"iou_threshold": iou_threshold},
        dtype=scores.dtype,
        shape=scores.shape,
        version=VERSION,
    )


def pool_rois(rois: Tensor, features: Sequence[Tensor], pooler: PoolerSpec) -> Tensor:
    """Apply MultiscaleRoIAlign or MultiscaleRoIPool: RoIs (N, R, 4) float32 to (N * R, channels, height, width)."""
    height, width = pooler.output_size
    attributes: dict[str, Any] = {
        "output_height": height,
        "output_width": width,
        "spatial_scales": list(pooler.spatial_scales),
        "level_thresholds": list(pooler.level_thresholds),
    }
    if pooler.kind == "align":
        spec, reference = multiscale_roi_align.SPEC, cast(Callable[..., Tensor], reference_roi_align)
        attributes |= {"sampling_ratio": pooler.sampling_ratio, "aligned": 0}
    else:
        spec, reference = multiscale_roi_pool.SPEC, reference_roi_pool
    if not torch.compiler.is_exporting():
        return reference(rois, features, **attributes)
    return torch.onnx.ops.symbolic(
        spec.qualified_name,
        (rois, *features),
        attributes,
        dtype=features[0].dtype,
        shape=(rois.shape[0] * rois.shape[1], features[0].shape[1], height, width),
        version=VERSION,
    )
