"""What runs a model file: our runtime on any of its backends, or torchvision's own export in its users' libraries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.artifacts import AnyManifest, canvases_of, engine_info
from frcnn.benchmarks.candidates.candidate import CannotRunError, Runner, Task
from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.backend import Network
from frcnn.runtime.dependencies import import_onnxruntime, openvino_core
from frcnn.runtime.images.preprocess import common_canvas, onto_canvas, place, with_pixels
from frcnn.runtime.onnxruntime_sessions import session_options
from frcnn.spec import Size

_PRECISIONS: Final[dict[str, str]] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class DetectorRunner(Runner):
    """A model file with our runtime around it, and what that runs in host memory; None for an engine."""

    def __init__(self, detector: Detector, manifest: AnyManifest, network: Network | None = None) -> None:
        super().__init__(manifest.model)
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


class _NaiveRunner(Runner):
    """torchvision's own ONNX export, as its users run it: one image of one size in, its detections out."""

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch of one."""
        (image,) = images
        boxes, labels, scores = self._run(np.ascontiguousarray(to_tensor(image).numpy()))
        names = self.spec.labels
        return [Detections(boxes=boxes, scores=scores, labels=labels, image_size=image.size, label_names=names)]

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Refuse: resizing is a part of this graph."""
        raise CannotRunError("resizing is a part of torchvision's own export and cannot be taken off")

    @abstractmethod
    def _run(self, image: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        """Take an image (3, H, W) in [0, 1]; return boxes (K, 4) in its pixels, labels (K) and scores (K)."""


class NaiveOnnxRuntimeRunner(_NaiveRunner):
    """The file in ONNX Runtime, by its names of providers, the wanted one first."""

    def __init__(self, task: Task, path: Path, *, providers: Sequence[str]) -> None:
        super().__init__(task.spec)
        ort = import_onnxruntime()
        available = ort.get_available_providers()
        if providers[0] not in available:
            raise CannotRunError(f"this onnxruntime has no {providers[0]} (it has {', '.join(available)})")
        options = session_options(ort, task.threads)
        self._session: Any = ort.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
        if providers[0] not in self._session.get_providers():
            raise CannotRunError(f"ONNX Runtime's {providers[0]} does not start on this system")
        self._input = self._session.get_inputs()[0].name

    def _run(self, image: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        found: Sequence[NDArray[Any]] = self._session.run(None, {self._input: image})
        return found


def openvino_settings(threads: int, hint: str | None) -> dict[str, Any]:
    """Return OpenVINO's settings; ``hint`` is its name of a precision, of what is not int8, None for its own choice."""
    return {"INFERENCE_NUM_THREADS": threads} | ({} if hint is None else {"INFERENCE_PRECISION_HINT": hint})


class NaiveOpenVinoRunner(_NaiveRunner):
    """The file, or OpenVINO's own form of it, in OpenVINO; see :func:`openvino_settings` for ``hint``."""

    def __init__(self, task: Task, path: Path, *, hint: str | None = None, is_int8: bool = False) -> None:
        super().__init__(task.spec)
        with openvino_core() as core:
            compiled = core.compile_model(str(path), "CPU", openvino_settings(task.threads, hint))
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = "int8" if is_int8 else _PRECISIONS[taken]
        self._request: Any = compiled.create_infer_request()

    def close(self) -> None:
        """Release the model."""
        self._request = None

    def _run(self, image: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        found = self._request.infer([image])
        return [found[index].copy() for index in range(3)]
