"""The interface between a detector and what executes its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import UsageError
from frcnn.runtime.device_detections import DeviceDetections
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.image import ChannelOrder
from frcnn.runtime.images.preprocess import Placed

Device = Literal["cpu", "cuda"]

Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOutput:
    """Detections of a batch, padded to K rows; rows past an image's count are undefined.

    Attributes:
        num_detections: ``(N,)`` int32, the valid rows of each image.
        boxes: ``(N, K, 4)`` float32 ``(x1, y1, x2, y2)`` in canvas pixels.
        scores: ``(N, K)`` float32, descending.
        labels: ``(N, K)`` int32 class indices.
    """

    num_detections: NDArray[np.int32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


class Pending(Protocol[ResultOut]):
    """Work in progress."""

    def result(self) -> ResultOut:
        """Wait for the work and return its result; an ``ArtifactError`` if the network failed."""

    def close(self) -> None:
        """Let the work end and release what it holds; failed work raises nothing here."""


class Done(Generic[Result]):
    """Work that is done already; a ``Pending``."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def result(self) -> Result:
        """Return the result."""
        return self._result

    def close(self) -> None:
        """Release nothing."""


class Network(Protocol):
    """Executes one network on arrays in host memory; several threads may call it at once."""

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; an ``ArtifactError`` if the network failed.

        Args:
            images: ``(N, 3, H, W)`` float32, normalised, padded with zeros at the right and bottom.
            image_sizes: ``(N, 2)`` int32, (height, width) of each resized image inside the canvas.
        """

    def close(self) -> None:
        """Release the network; it is not called again."""


class Backend(Protocol):
    """Prepares images its own way and detects in them; several threads may call it at once.

    Attributes:
        canvases: the canvases it takes.
        batches_in_flight: how many batches are worth submitting before the first result is fetched.
        on_gpu: whether it uses a GPU, which a forked process cannot.
    """

    canvases: Canvases
    batches_in_flight: int
    on_gpu: bool

    def place(self, image: object, *, name: str, max_pixels: int, ahead: bool, order: ChannelOrder = "rgb") -> Placed:
        """Decode an image, called ``name`` in messages, and choose its canvas.

        ``max_pixels`` and ``order``, of channels, are those of ``Detector.load``; ``ahead`` tells whether the caller
        may write over an array before the image is submitted.

        Raises:
            ImageError: the image cannot be used.
            UsageError: the backend is closed.
        """

    def submit(self, batch: Sequence[Placed], *, stream: int | None = None) -> Pending[NetworkOutput]:
        """Begin to detect in images of one canvas, no more than it takes at once, prepared alike.

        Args:
            batch: results of :meth:`place`.
            stream: the caller's stream, which orders images in device memory; None: the stream that each one names.

        Raises:
            ArtifactError: the network failed.
            ImageError: an image in device memory cannot be reached.
            UsageError: the backend is closed, or has no streams.
        """

    def submit_to_device(self, batch: Sequence[Placed], *, stream: int | None = None) -> list[DeviceDetections]:
        """Detect as :meth:`submit` does and leave the detections in device memory, without waiting.

        Raises:
            UsageError: the network does not run on a GPU of its own; and the errors of :meth:`submit`.
        """

    def close(self) -> None:
        """Wait for work in progress and release everything; a second call does nothing."""


def closed_error() -> UsageError:
    """Return the error of a call on a closed detector."""
    return UsageError("the detector is closed", hint="load it again with Detector.load")
