"""What a detector asks of whatever executes its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Device", "NetworkOutput"]

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOutput:
    """Detections of a batch, padded to K rows; rows past a picture's count mean nothing.

    Attributes:
        num_detections: (N,) int32, how many rows are detections.
        boxes: (N, K, 4) float32, x1, y1, x2, y2 in canvas pixels.
        scores: (N, K) float32, descending.
        labels: (N, K) int32 class indices.
    """

    num_detections: NDArray[np.int32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


class Backend(Protocol):
    """Executes one network; safe to call from several threads at once."""

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect.

        Args:
            images: (N, 3, H, W) float32, normalised, padded with zeros at the right and bottom.
            image_sizes: (N, 2) int32, (height, width) of each resized picture inside the canvas.

        Raises:
            ArtifactError: the network failed.
        """
        ...

    def close(self) -> None:
        """Release what the backend holds; it is not called again."""
        ...
