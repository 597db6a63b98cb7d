"""Detections of several images, as hard for a format as they may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frcnn.runtime import Detections

NAMES = ("__background__", 'cat & "dog" <b>', "cup, 'red'", "Straße 日本 😀")
SIZES = {"a & b.jpg": (480, 641), "sub/empty.jpg": (333, 17), "sub/c.png": (3001, 4999)}


def detection_sets(folder: str = "/photos", names: tuple[str, ...] | None = NAMES) -> list[Detections]:
    """Return detections of images of odd sides: anywhere, none, and up to the borders."""
    random, found = np.random.default_rng(0), []
    for (name, (height, width)), count in zip(SIZES.items(), (40, 0, 200), strict=True):
        corners = np.sort(random.random((count, 2, 2), np.float32), axis=1) * np.array([width, height], np.float32)
        corners[::5] = [[0, 0], [width, height]]
        found.append(
            Detections(
                boxes=corners.reshape(-1, 4),
                scores=np.sort(random.random(count, np.float32))[::-1],
                labels=random.integers(1, 4, count),
                image_size=(height, width),
                source=str(Path(folder, name)),
                label_names=names,
            )
        )
    return found
