"""Attributes and shapes of every operator, for each number of feature levels."""

from __future__ import annotations

from typing import Any

from frcnn.plugins import OPERATORS

Shape = tuple[int, ...]

FORMS = [(name, levels) for name in OPERATORS for levels in (range(1, 9) if name != "BoxDetections" else (1,))]
"""(operator, levels) for every number of levels that there are kernels for."""


def attributes_of(operator: str, levels: int, *, anchors_per_cell: int = 3) -> dict[str, Any]:
    """Return attributes of an operator, in the order of its spec."""
    values: dict[str, Any] = {
        "output_height": 7,
        "output_width": 5,
        "spatial_scales": [1 / 4 / 2**level for level in range(levels)],
        "level_thresholds": [112.0 * 2**level for level in range(max(1, levels - 1))],
        "sampling_ratio": 2,
        "aligned": 1,
        "anchors": [float(number) for row in _anchors(levels, anchors_per_cell) for number in row],
        "strides": [8.0 * level for level in range(levels)],
        "box_weights": [10.0, 10.0, 5.0, 5.0],
        "max_log_scale": 4.135,
        "pre_nms_top_n": 1000,
        "post_nms_top_n": 900,
        "iou_threshold": 0.7,
        "score_threshold": 0.05,
        "min_size": 0.01,
        "max_detections": 100,
    }
    return {attribute.name: values[attribute.name] for attribute in OPERATORS[operator].attributes}


def _anchors(levels: int, per_cell: int) -> list[tuple[float, ...]]:
    sides = [(level, 8 * 2 ** (level + anchor)) for level in range(levels) for anchor in range(per_cell)]
    return [(level, -side, -side / 2, side, side / 2) for level, side in sides]


def shapes_of(
    operator: str, levels: int, *, images: int = 2, rois: int = 11, channels: int = 24, anchors_per_cell: int = 3
) -> dict[str, Shape]:
    """Return the shape of each input of an operator; ``channels`` are the classes of BoxDetections."""
    sizes = [(40 + 3 * level, 60 - 2 * level) for level in range(levels)]
    if operator == "BoxDetections":
        rows = images * rois
        logits = {"class_logits": (rows, channels), "box_deltas": (rows, 4 * channels)}
        return {"rois": (images, rois, 4), "image_sizes": (images, 2), **logits}
    if operator == "RegionProposals":
        by_level: dict[str, Shape] = {"image_sizes": (images, 2), "images": (images, 3, 320, 480)}
        for name, per_cell in (("objectness", anchors_per_cell), ("deltas", 4 * anchors_per_cell)):
            by_level |= {f"{name}_{level}": (images, per_cell, *size) for level, size in enumerate(sizes)}
        return by_level
    return {"rois": (images, rois, 4)} | {f"feature_{i}": (images, channels, *size) for i, size in enumerate(sizes)}
