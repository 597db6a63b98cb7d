"""What a detector asks of whatever executes its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime.device_detections import DeviceDetections
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.preprocess import Placed

__all__ = ["Backend", "Device", "Done", "Network", "NetworkOutput", "Pending"]

Device = Literal["cpu", "cuda"]

Answer = TypeVar("Answer")
AnswerOut = TypeVar("AnswerOut", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOutput:
    """Detections of a batch, padded to K rows; rows past an image's count mean nothing.

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


class Pending(Protocol[AnswerOut]):
    """Work that was begun."""

    def result(self) -> AnswerOut:
        """Wait for the work and return what came of it.

        Raises:
            ArtifactError: the network failed.
        """
        ...

    def close(self) -> None:
        """Let the work end and release what it holds; nothing is raised for work that failed."""


class Done(Generic[Answer]):
    """Work that is done already.

    Args:
        answer: what came of it.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def result(self) -> Answer:
        """Return the answer."""
        return self._answer

    def close(self) -> None:
        """Release nothing."""


class Network(Protocol):
    """Executes one network on arrays of the host; safe to call from several threads at once."""

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect.

        Args:
            images: (N, 3, H, W) float32, normalised, padded with zeros at the right and bottom.
            image_sizes: (N, 2) int32, (height, width) of each resized image inside the canvas.

        Raises:
            ArtifactError: the network failed.
        """
        ...

    def close(self) -> None:
        """Release what the network holds; it is not called again."""
        ...


class Backend(Protocol):
    """Prepares images its own way and detects in them; safe to call from several threads at once.

    Attributes:
        canvases: what it takes.
        batches_in_flight: how many batches are worth submitting before the first one's answer is asked for.
    """

    canvases: Canvases
    batches_in_flight: int

    def place(self, image: object, *, name: str, max_pixels: int, ahead: bool) -> Placed:
        """Turn what a caller handed in into an image on a canvas.

        Args:
            image: see ``Detector``.
            name: what messages call it.
            max_pixels: limit for files and PIL images.
            ahead: whether the caller goes on before the image is submitted, and may write over an array.

        Raises:
            ImageError: an image that cannot be used.
            UsageError: the backend is closed.
        """
        ...

    def submit(self, batch: Sequence[Placed], *, stream: int | None = None) -> Pending[NetworkOutput]:
        """Begin to detect in images of one canvas, no more than the canvases allow, prepared alike.

        Args:
            batch: what :meth:`place` returned.
            stream: the caller's stream, which orders images in device memory; None: the one that each names.

        Raises:
            ArtifactError: the network failed.
            ImageError: an image in memory that cannot be reached.
            UsageError: the backend is closed, or has no streams.
        """
        ...

    def submit_to_device(self, batch: Sequence[Placed], *, stream: int | None = None) -> list[DeviceDetections]:
        """Detect as :meth:`submit` does, and leave the answers in device memory, without waiting.

        Raises:
            ArtifactError: see :meth:`submit`.
            ImageError: likewise.
            UsageError: likewise; or the network does not run on a GPU of its own.
        """
        ...

    def close(self) -> None:
        """Wait for what runs and release everything; more than once does nothing."""
        ...
