"""A scene that the examples share, the same every time: what RoI pooling and BoxDetections take, as NumPy arrays."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGN: Final[dict[str, Any]] = {
    "output_height": 7,
    "output_width": 7,
    "spatial_scales": (1 / 4, 1 / 8, 1 / 16, 1 / 32),
    "level_thresholds": (112.0, 224.0, 448.0),
    "sampling_ratio": 2,
    "aligned": 0,
}
"""Attributes of MultiscaleRoIAlign for a feature pyramid of strides 4 to 32."""

DETECT: Final[dict[str, Any]] = {
    "box_weights": (10.0, 10.0, 5.0, 5.0),
    "max_log_scale": float(np.log(1000 / 16)),
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "min_size": 0.01,
    "max_detections": 100,
}
"""Attributes of BoxDetections, as torchvision's Faster R-CNN has them."""


class Scene(NamedTuple):
    """Inputs of both operators; RoIs are (x1, y1, x2, y2) in canvas pixels.

    Attributes:
        rois: (N, R, 4) float32.
        image_sizes: (N, 2) int32, (height, width).
        maps: one (N, C, H, W) float32 per level.
        class_logits: (N * R, classes) float32; class 0 is the background.
        box_deltas: (N * R, 4 * classes) float32.
    """

    rois: NDArray[np.float32]
    image_sizes: NDArray[np.int32]
    maps: list[NDArray[np.float32]]
    class_logits: NDArray[np.float32]
    box_deltas: NDArray[np.float32]


def make_scene(*, images: int = 2, objects: int = 8, rois: int = 128, channels: int = 64, classes: int = 21) -> Scene:
    """Return a scene of objects with many RoIs around each, whose class the box head is sure of."""
    rng = np.random.default_rng(0)
    height, width = 320, 448
    corner = rng.uniform(0, (width - 80, height - 80), (images, objects, 2))
    chosen = np.arange(rois) % objects
    corners = corner[:, chosen] + rng.normal(0, 2, (images, rois, 2))
    logits = rng.normal(0, 1, (images, rois, classes))
    logits[:, np.arange(rois), 1 + chosen % (classes - 1)] += 9
    return Scene(
        rois=np.concatenate([corners, corners + rng.uniform(60, 70, corners.shape)], axis=2).astype(np.float32),
        image_sizes=np.array([[height, width]] * images, np.int32),
        maps=[
            rng.normal(0, 1, (images, channels, height // stride, width // stride)).astype(np.float32)
            for stride in (4, 8, 16, 32)
        ],
        class_logits=logits.reshape(images * rois, classes).astype(np.float32),
        box_deltas=rng.normal(0, 0.1, (images * rois, 4 * classes)).astype(np.float32),
    )
