"""A detector on a GPU without the threads, images and results around it: one worker, its graph, its engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime.gpu.device import Device, Engine
from frcnn.runtime.gpu.pipeline import Pipeline, PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.runtime.images.image import DeviceImage, RGBImage
from frcnn.runtime.images.preprocess import place
from frcnn.runtime.loading import open_engines
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import EngineManifest

Images = Sequence[RGBImage | DeviceImage]


class BareDetector:
    """One worker of an artifact, for one thread; it owns the device and the engines, also if it cannot be made.

    ``said`` is what the worker would tell users.
    """

    def __init__(
        self,
        manifest: EngineManifest,
        read_part: Callable[[str], bytes],
        device: Device,
        engines: Mapping[str, Engine],
    ) -> None:
        self.manifest = manifest
        self.read_part = read_part
        self.device = device
        self.engines = dict(engines)
        self.said: list[str] = []
        self._canvases = EngineCanvases(manifest)
        with ExitStack() as stack:
            stack.callback(device.close)
            for engine in self.engines.values():
                stack.callback(engine.close)
            device.activate()
            self._worker = Worker(load_program(manifest, read_part, self.engines, device), device, self.said.append)
            stack.callback(self._worker.close)
            self._closing = stack.pop_all()

    @property
    def stream(self) -> int:
        """The stream that everything is on."""
        return self._worker.stream

    def run(self, images: Images) -> dict[str, NDArray[Any]]:
        """Run a batch of one canvas and return copies of the outputs; plainly the first time, by its graph after."""
        pipeline = self._enqueue(images)
        self.device.synchronize(self.stream)
        return {name: np.array(output) for name, output in pipeline.outputs.items()}

    def pipeline(self, images: Images) -> Pipeline:
        """Return the pipeline of a batch, ready to be launched again: everything uploaded, and the graph captured."""
        for _ in range(2):
            pipeline = self._enqueue(images)
            self.device.synchronize(self.stream)
        return pipeline

    def launch(self, pipeline: Pipeline) -> None:
        """Launch a pipeline again, on what was uploaded."""
        pipeline.launch(self.stream, self.said.append)

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enqueue(self, images: Images) -> Pipeline:
        placed = [place(image, self.manifest.source.model.transform, self._canvases) for image in images]
        canvas = placed[0].canvas
        profile, size = self._canvases.batch_to_run(len(placed), canvas)
        return self._worker.enqueue(PipelineKey(size, canvas, True), profile, placed, ())


def open_bare(artifact: EngineArtifact) -> BareDetector:
    """Open an artifact on the first GPU; raise ArtifactError where it does not run."""
    device, engines = open_engines(artifact, trusted_hashes=None)
    return BareDetector(artifact.manifest, artifact.read_part, device, engines)
