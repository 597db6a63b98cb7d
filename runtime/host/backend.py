"""A backend that prepares images on the CPU and runs a network in host memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import numpy as np

from frcnn.errors import UsageError
from frcnn.runtime.backend import Done, Network, NetworkOutput
from frcnn.runtime.device_detections import DeviceDetections
from frcnn.runtime.forks import forked_error, keep_in_forks
from frcnn.runtime.images.canvases import Canvases, OnnxCanvases
from frcnn.runtime.images.image import ChannelOrder, as_image
from frcnn.runtime.images.preprocess import Placed, Prepared, prepare
from frcnn.spec import Manifest

_ENGINES_ONLY: Final = "build an engine: frcnn build model.onnx -o model.frcnn"


class HostBackend:
    """A ``Backend`` on a network that takes arrays in host memory, such as ONNX Runtime's."""

    batches_in_flight = 1

    def __init__(self, network: Network, manifest: Manifest, *, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        self.canvases: Canvases = OnnxCanvases(manifest)
        self._network = network
        self._manifest = manifest
        self._process = keep_in_forks(self)

    def place(self, image: object, *, name: str, max_pixels: int, ahead: bool, order: ChannelOrder = "rgb") -> Prepared:
        """Decode, resize, normalise and pad; see ``Backend.place``. The caller's array is not kept."""
        return prepare(as_image(image, name=name, max_pixels=max_pixels, channel_order=order), self._manifest)

    def submit(self, batch: Sequence[Placed], *, stream: int | None = None) -> Done[NetworkOutput]:
        """Detect, at once; see ``Backend.submit``."""
        if os.getpid() != self._process:
            raise forked_error()
        if stream is not None:
            raise UsageError("stream: a model.onnx does not run on the caller's streams", hint=_ENGINES_ONLY)
        pixels = [item.pixels for item in batch if isinstance(item, Prepared)]
        images = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
        return Done(self._network.run(images, np.array([item.resized for item in batch], np.int32)))

    def submit_to_device(self, batch: Sequence[Placed], *, stream: int | None = None) -> list[DeviceDetections]:
        """Refuse: the detections are in host memory."""
        raise UsageError("device_output: the detections of a model.onnx are in host memory", hint=_ENGINES_ONLY)

    def close(self) -> None:
        """Release the network; in a forked process nothing happens."""
        if os.getpid() == self._process:
            self._network.close()
