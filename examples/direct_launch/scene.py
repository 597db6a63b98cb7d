"""Clusters of boxes for NMS, shared by the examples and the same every time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clusters(groups: int = 4, boxes: int = 1000) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (G, M, 4) as (x1, y1, x2, y2) in pixels and their scores (G, M) in [0, 1)."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1000, (groups, 40, 2))
    corners = centres[:, rng.integers(0, 40, boxes)] + rng.normal(0, 6, (groups, boxes, 2))
    made = np.concatenate([corners, corners + rng.uniform(60, 90, corners.shape)], axis=2)
    return made.astype(np.float32), rng.uniform(0, 1, (groups, boxes)).astype(np.float32)
