"""What runs a model file of ours: our runtime, on any of its backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from frcnn.benchmarks.candidates.artifacts import AnyManifest, canvases_of, engine_info, model_manifest
from frcnn.benchmarks.candidates.candidate import Runner
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.backend import Network
from frcnn.runtime.images.preprocess import common_canvas, onto_canvas, place, with_pixels
from frcnn.spec import Size

__all__ = ["DetectorRunner"]


class DetectorRunner(Runner):
    """A model file with our runtime around it.

    Args:
        detector: closed with the runner.
        manifest: the file's.
        network: what the detector runs in host memory; None for an engine, which takes images in device memory.
    """

    def __init__(self, detector: Detector, manifest: AnyManifest, network: Network | None = None) -> None:
        super().__init__(model_manifest(manifest).model)
        self.network_clock = "cuda" if network is None else "wall"
        self.engine = engine_info(manifest)
        self._detector = detector
        self._canvases = canvases_of(manifest)
        self._network = network

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that an image alone is padded to."""
        return place(image, self.spec.transform, self._canvases).canvas

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch on one canvas; the detections are on the host."""
        return self._detector(list(images), batch_size=len(images), same_canvas=len(images) > 1)

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what runs the network on a prepared batch; an engine's begins with its preprocessing kernel."""
        if self._network is None:
            import torch

            arrays = [torch.from_numpy(image.uint8().copy()).cuda() for image in images]
            torch.cuda.synchronize()
            return partial(
                self._detector,
                arrays,
                stream=torch.cuda.current_stream(),
                device_output=True,
                batch_size=len(arrays),
                same_canvas=len(arrays) > 1,
            )
        placed = [place(image, self.spec.transform, self._canvases) for image in images]
        canvas = common_canvas(placed, self._canvases)
        prepared = [with_pixels(onto_canvas(item, canvas), self.spec.transform) for item in placed]
        pixels = np.stack([item.pixels for item in prepared])
        return partial(self._network.run, pixels, np.array([item.resized for item in prepared], np.int32))

    def close(self) -> None:
        """Release the detector."""
        self._detector.close()
