"""Random images, and views of one whose pixels lie in memory in every order that callers hand in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


BASE = noise(12, 14, 1)

VIEWS: dict[str, Callable[[], np.ndarray]] = {
    "as written": lambda: BASE,
    "bgr": lambda: BASE[:, :, ::-1],
    "crop": lambda: BASE[2:9, 3:11],
    "upside down": lambda: BASE[::-1],
    "mirrored": lambda: BASE[:, ::-1],
    "turned by half": lambda: BASE[::-1, ::-1, ::-1],
    "every second": lambda: BASE[::2, 1::3],
    "planar": lambda: np.ascontiguousarray(BASE.transpose(2, 0, 1)).transpose(1, 2, 0),
    "transposed": lambda: BASE.transpose(1, 0, 2),
    "grey": lambda: np.broadcast_to(BASE[:, :, 0, None], (12, 14, 3)),
    "grey, mirrored": lambda: np.broadcast_to(BASE[:, ::-1, 0, None], (12, 14, 3)),
    "one pixel": lambda: BASE[:1, :1],
    "one row of bgr": lambda: BASE[:1, :, ::-1],
}
