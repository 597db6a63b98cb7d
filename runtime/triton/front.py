"""The model in Triton that takes bytes of image files and gives detections in their pixels.

Triton's Python backend finds ``TritonPythonModel`` through ``model.py`` in the repository. It is a ``Detector`` whose
network is another model of the server, or which has loaded a model file itself.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, FrcnnError, ImageError
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.detections import Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.host.backend import HostBackend, checked_output
from frcnn.runtime.images.canvases import EngineCanvases, OnnxCanvases
from frcnn.runtime.images.image import RGBImage, as_image
from frcnn.runtime.triton.config import FRONT_INPUT
from frcnn.spec import Manifest
from frcnn.spec.engine import INPUTS, OUTPUTS, EngineManifest

MANIFEST_FILE: Final = "manifest.json"


class TritonPythonModel:
    """What Triton's Python backend calls; each instance has a process of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model; ``args`` name the configuration and the folder."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")  # it is there in Triton only
        config = json.loads(args["model_config"])
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(args["model_repository"], args["model_version"])
        self._batch_size = int(config["max_batch_size"])
        if "network" in values:
            network = _Network(self._triton, values["network"], values["image_type"])
            self._detector = _detector_on(network, folder / MANIFEST_FILE)
        else:
            device: Any = values["device"]
            self._detector = Detector.load(folder / values["model"], device=device)
        self._rows = self._detector.manifest.model.roi_heads.detections_per_img

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response to each request, of one image or several; a request with an unusable image fails."""
        tensors = [self._triton.get_input_tensor_by_name(request, FRONT_INPUT) for request in requests]
        uploads = [tensor.as_numpy().ravel().tolist() for tensor in tensors]
        images = [(data, _name(i, len(upload))) for upload in uploads for i, data in enumerate(upload)]
        found = iter(detect_each(self._detector, images, self._batch_size))
        return [self._response([next(found) for _ in upload]) for upload in uploads]

    def finalize(self) -> None:
        """Release the model."""
        self._detector.close()

    def _response(self, found: Sequence[Detections | FrcnnError]) -> Any:
        triton, detections = self._triton, [one for one in found if isinstance(one, Detections)]
        for error in found:
            if isinstance(error, FrcnnError):
                codes = triton.TritonError
                code = codes.INVALID_ARG if isinstance(error, ImageError) else codes.INTERNAL
                return triton.InferenceResponse(error=triton.TritonError(str(error), code))
        outputs = zip(OUTPUTS, padded(detections, self._rows), strict=True)
        return triton.InferenceResponse(output_tensors=[triton.Tensor(name, array) for name, array in outputs])


def detect_each(
    detector: Detector, images: Sequence[tuple[bytes, str]], batch_size: int
) -> list[Detections | FrcnnError]:
    """Return the detections of each image, bytes of a file and its name in messages, or its own error."""
    results: dict[int, Detections | FrcnnError] = {}
    decoded: list[int] = []

    def decode() -> Iterator[RGBImage]:  # in the stream's thread, while the network works
        for index, (data, name) in enumerate(images):
            try:
                image = as_image(data, name=name)
            except ImageError as error:
                results[index] = error
            else:
                decoded.append(index)
                yield image

    def refuse(position: int, error: ImageError) -> None:
        results[decoded[position]] = error

    found: list[Detections | FrcnnError] = []
    try:
        found += detector.stream(decode(), batch_size=batch_size, on_error=refuse)
    except FrcnnError as error:
        found = [error] * len(images)  # the network's
    waiting = iter(found)
    return [results[index] if index in results else next(waiting) for index in range(len(images))]


def padded(found: Sequence[Detections], rows: int) -> tuple[NDArray[Any], ...]:
    """Return ``num_detections`` (n, 1), ``boxes`` (n, rows, 4), ``scores`` and ``labels`` (n, rows), then zeros."""
    counts = np.array([[len(one)] for one in found], np.int32)
    boxes = np.zeros((len(found), rows, 4), np.float32)
    scores, labels = np.zeros((len(found), rows), np.float32), np.zeros((len(found), rows), np.int32)
    for i, one in enumerate(found):
        boxes[i, : len(one)], scores[i, : len(one)], labels[i, : len(one)] = one.boxes, one.scores, one.labels
    return counts, boxes, scores, labels


class _Network:
    """Another model of the server; a ``Network``."""

    def __init__(self, triton: Any, name: str, image_type: str) -> None:
        self._triton, self._name, self._image_type = triton, name, np.dtype(image_type)

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; see ``Network.run``."""
        triton, arrays = self._triton, (images.astype(self._image_type, copy=False), image_sizes)
        response = triton.InferenceRequest(
            model_name=self._name,
            requested_output_names=list(OUTPUTS),
            inputs=[triton.Tensor(name, array) for name, array in zip(INPUTS, arrays, strict=True)],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise ArtifactError(f"the model {self._name} failed: {response.error().message()}")
        counts, *padded = (triton.get_output_tensor_by_name(response, name).as_numpy() for name in OUTPUTS)
        return checked_output(Path(self._name), len(images), [counts.ravel(), *padded])

    def close(self) -> None:
        """Release nothing."""


def _detector_on(network: _Network, manifest_file: Path) -> Detector:
    text, source = manifest_file.read_bytes(), str(manifest_file)
    if "steps" not in json.loads(text):
        manifest = Manifest.from_json(text, source=source)
        return Detector(HostBackend(network, manifest, canvases=OnnxCanvases(manifest)), manifest)
    engine = EngineManifest.from_json(text, source=source)
    return Detector(HostBackend(network, engine.source, canvases=EngineCanvases(engine)), engine.source)


def _name(index: int, count: int) -> str:
    return FRONT_INPUT if count == 1 else f"{FRONT_INPUT}[{index}]"
