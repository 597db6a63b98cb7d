"""An engine artifact without a ``Detector`` around it: one worker, its graph, and the engines to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import UsageError
from frcnn.runtime.engines.runtime_cache import default_folder
from frcnn.runtime.engines.tensorrt_engine import TensorRTEngine, load_engine
from frcnn.runtime.gpu.cuda_device import CudaDevice
from frcnn.runtime.gpu.pipeline import Pipeline, PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import Placed, place
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import EngineStep


class BareArtifact:
    """An engine artifact on the first GPU, for one thread; a given device is closed with it.

    ``said`` is what the worker would tell users. Raises ArtifactError where it does not run.
    """

    def __init__(self, path: Path, *, device: CudaDevice | None = None) -> None:
        artifact = open_artifact(path)
        if not isinstance(artifact, EngineArtifact):
            raise UsageError(f"{path}: expected an engine artifact, got a model.onnx", hint="frcnn build makes one")
        self.artifact = artifact
        self.said: list[str] = []
        self.engines: dict[str, TensorRTEngine] = {}
        manifest = artifact.manifest
        self._canvases = EngineCanvases(manifest)
        with ExitStack() as stack:
            self.device = CudaDevice() if device is None else device
            stack.callback(self.device.close)
            for part in dict.fromkeys(step.part for step in manifest.steps if isinstance(step, EngineStep)):
                self.engines[part] = load_engine(
                    artifact.read_part(part),
                    target=manifest.target,
                    device=self.device,
                    cache_folder=default_folder(),
                    tensors=manifest.tensors,
                )
                stack.callback(self.engines[part].close)
            program = load_program(manifest, artifact.read_part, self.engines, self.device)
            self._worker = Worker(program, self.device, self.said.append)
            stack.callback(self._worker.close)
            self._closing = stack.pop_all()

    @property
    def stream(self) -> int:
        """The stream that everything is on."""
        return self._worker.stream

    def run(self, images: Sequence[RGBImage]) -> dict[str, NDArray[Any]]:
        """Run a batch of one canvas and return copies of the outputs; plainly the first time, by its graph after.

        Raises:
            ArtifactError: the network failed.
        """
        pipeline = self._enqueue(self._placed(images))
        self.device.synchronize(self.stream)
        return _copies(pipeline.outputs)

    def pipeline(self, images: Sequence[RGBImage]) -> Pipeline:
        """Return the pipeline of a batch, ready to be launched again: everything uploaded, and the graph captured."""
        placed = self._placed(images)
        for _ in range(2):
            pipeline = self._enqueue(placed)
            self.device.synchronize(self.stream)
        return pipeline

    def launch(self, pipeline: Pipeline) -> None:
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

    def _placed(self, images: Sequence[RGBImage]) -> list[Placed]:
        transform = self.artifact.manifest.source.model.transform
        return [place(image, transform, self._canvases) for image in images]

    def _enqueue(self, placed: Sequence[Placed]) -> Pipeline:
        canvas = placed[0].canvas
        profile, size = self._canvases.batch_to_run(len(placed), canvas)
        return self._worker.enqueue(PipelineKey(size, canvas, True), profile, placed, ())


def _copies(answers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: np.array(answer) for name, answer in answers.items()}
