"""A backend that prepares images on the CPU and runs a network in host memory, and what all such networks check."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, UsageError
from frcnn.processors import available_cpus
from frcnn.runtime.backend import Done, Network, NetworkOutput
from frcnn.runtime.device_detections import DeviceDetections
from frcnn.runtime.exits import finished_before_exit
from frcnn.runtime.forks import forked_error, keep_in_forks
from frcnn.runtime.images.canvases import Canvases, OnnxCanvases
from frcnn.runtime.images.image import ChannelOrder, as_image
from frcnn.runtime.images.preprocess import Placed, Prepared, place, with_pixels
from frcnn.spec import Manifest
from frcnn.spec.engine import INPUTS, OUTPUTS

REMAKE: Final = "export the model again: frcnn export CHECKPOINT -o model.onnx"
_ENGINES_ONLY: Final = "build an engine: frcnn build model.onnx -o model.frcnn"


class HostBackend:
    """A ``Backend`` on a network that takes arrays in host memory, such as ONNX Runtime's."""

    batches_in_flight = 1

    def __init__(
        self, network: Network, manifest: Manifest, *, on_gpu: bool = False, canvases: Canvases | None = None
    ) -> None:
        self.on_gpu = on_gpu
        self.canvases: Canvases = canvases or OnnxCanvases(manifest)
        self._network = network
        self._transform = manifest.model.transform
        self._process = keep_in_forks(self)

    def place(self, image: object, *, name: str, max_pixels: int, ahead: bool, order: ChannelOrder = "rgb") -> Prepared:
        """Decode, resize, normalise and pad; see ``Backend.place``. The caller's array is not kept."""
        decoded = as_image(image, name=name, max_pixels=max_pixels, channel_order=order)
        return with_pixels(place(decoded, self._transform, self.canvases), self._transform)

    def submit(self, batch: Sequence[Placed], *, stream: int | None = None) -> Done[NetworkOutput]:
        """Detect, at once; see ``Backend.submit``."""
        if os.getpid() != self._process:
            raise forked_error()
        if stream is not None:
            raise UsageError("stream: a model.onnx does not run on the caller's streams", hint=_ENGINES_ONLY)
        pixels = [item.pixels for item in batch if isinstance(item, Prepared)]
        images = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
        with finished_before_exit():
            return Done(self._network.run(images, np.array([item.resized for item in batch], np.int32)))

    def submit_to_device(self, batch: Sequence[Placed], *, stream: int | None = None) -> list[DeviceDetections]:
        """Refuse: the detections are in host memory."""
        raise UsageError("device_output: the detections of a model.onnx are in host memory", hint=_ENGINES_ONLY)

    def close(self) -> None:
        """Release the network; in a forked process nothing happens."""
        if os.getpid() == self._process:
            self._network.close()


def checked_threads(threads: int | None) -> int:
    """Return the number of threads: by default all processors that this process may use."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected 1 or more, got {threads}")
    return threads or available_cpus()


def check_values(
    path: Path, inputs: Mapping[str, str], outputs: Mapping[str, str], *, integer: str, floating: Sequence[str]
) -> None:
    """Refuse a model whose inputs and outputs, name to type, are not a detector's, with an ``ArtifactError``.

    ``integer`` is the library's name of int32, ``floating`` are those of float32 and of what else images may be.
    """
    expected = dict(zip(OUTPUTS, (integer, floating[0], floating[0], integer), strict=True))
    if set(inputs) != set(INPUTS) or outputs != expected:
        raise ArtifactError(
            f"{path}: expected inputs {INPUTS} and outputs {expected}, got {tuple(inputs)} and {outputs}", hint=REMAKE
        )
    if (kind := inputs["images"]) not in floating:
        raise ArtifactError(f"{path}: expected images as one of {', '.join(floating)}, got {kind}", hint=REMAKE)


def run_error(path: Path, library: str, images: tuple[int, ...], why: str) -> ArtifactError:
    """Return the error of a network that failed on images ``(N, 3, H, W)``."""
    batch, _, height, width = images
    return ArtifactError(
        f"{path}: {library} failed on {batch} image(s) on a {height}x{width} canvas: {why}",
        hint="give fewer images at a time or smaller ones where memory ran out; otherwise report it",
    )


def checked_output(path: Path, batch: int, outputs: Sequence[NDArray[Any]]) -> NetworkOutput:
    """Return outputs, in the order of ``OUTPUTS``, as the network's; refuse shapes that are not a detector's.

    Their types are checked when a model is loaded, their shapes are not known before, whatever the file declares.
    """
    rows = outputs[1].shape[1:2]
    got = [output.shape for output in outputs]
    if len(rows) != 1 or got != [(batch,), (batch, *rows, 4), (batch, *rows), (batch, *rows)]:
        shapes = ", ".join(f"{name} {shape}" for name, shape in zip(OUTPUTS, got, strict=True))
        raise ArtifactError(f"{path}: expected the outputs of a detector, got {shapes}", hint=REMAKE)
    return NetworkOutput(**dict(zip(OUTPUTS, outputs, strict=True)))
