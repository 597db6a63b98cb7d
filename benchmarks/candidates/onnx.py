"""Candidates that run an ONNX file: ours in ONNX Runtime and OpenVINO, and torchvision's own export."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.candidate import (
    EAGER_EQUAL_ID,
    EAGER_ID,
    Candidate,
    CannotRunError,
    File,
    NetworkClock,
    Runner,
    Task,
    padded_canvas,
)
from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.benchmarks.candidates.model_files import built_onnx, given_file, naive_onnx
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.backend import Device, Network, NetworkOutput
from frcnn.runtime.dependencies import import_onnx, import_onnxruntime
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.preprocess import common_canvas, onto_canvas, place, with_pixels
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.spec import Manifest, Size, TransformSpec

__all__ = [
    "DetectorRunner",
    "NaiveRunner",
    "NetworkRunner",
    "OpenVinoNetwork",
    "naive_onnxruntime",
    "naive_tensorrt",
    "onnx_candidates",
    "onnx_manifest",
    "precision_of",
    "source_label",
]

_NAIVE_NOTE: Final = "traced for one image of one size, by torch.onnx.export as torchvision documents it"


class DetectorRunner:
    """A ``Detector`` as a candidate.

    Args:
        detector: closed with the runner.
        transform: the model's.
        canvases: the file's.
    """

    network_clock: NetworkClock = "wall"

    def __init__(self, detector: Detector, transform: TransformSpec, canvases: Canvases) -> None:
        self.build_s: float | None = None
        self._detector = detector
        self._transform = transform
        self._canvases = canvases

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that an image alone is padded to."""
        return place(image, self._transform, self._canvases).canvas

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch on one canvas; the detections are on the host."""
        return self._detector(list(images), batch_size=len(images), same_canvas=len(images) > 1)

    def close(self) -> None:
        """Release the detector."""
        self._detector.close()


class NetworkRunner(DetectorRunner):
    """A ``model.onnx`` with our runtime around it, whatever executes the network.

    Args:
        network: executes it; closed with the runner.
        manifest: the file's.
    """

    def __init__(self, network: Network, manifest: Manifest) -> None:
        backend = HostBackend(network, manifest)
        super().__init__(Detector(backend, manifest), manifest.model.transform, backend.canvases)
        self._network = network

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what runs only the network on a prepared batch."""
        placed = [place(image, self._transform, self._canvases) for image in images]
        canvas = common_canvas(placed, self._canvases)
        prepared = [with_pixels(onto_canvas(item, canvas), self._transform) for item in placed]
        pixels = np.stack([item.pixels for item in prepared])
        sizes = np.array([item.resized for item in prepared], np.int32)
        return lambda: self._network.run(pixels, sizes)


class OpenVinoNetwork:
    """A ``Network`` on OpenVINO, which knows no model-local functions: their bodies are inlined first.

    Args:
        path: a ``model.onnx``.
        threads: processor threads.
    """

    def __init__(self, path: Path, threads: int) -> None:
        openvino: Any = importlib.import_module("openvino")  # no type information, and seldom installed
        import_onnx()
        import onnx
        from onnx.inliner import inline_local_functions

        core: Any = openvino.Core()
        model = core.read_model(model=inline_local_functions(onnx.load(path)).SerializeToString())
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(model, "CPU", settings)
        self._request: Any = compiled.create_infer_request()
        self._half = "f16" in str(compiled.input("images").get_element_type())

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; see ``Network.run``."""
        kind = np.float16 if self._half else np.float32
        feeds = {"images": images.astype(kind, copy=False), "image_sizes": image_sizes}
        found = {key.get_any_name(): value for key, value in self._request.infer(feeds).items()}
        return NetworkOutput(
            num_detections=found["num_detections"],
            boxes=found["boxes"],
            scores=found["scores"],
            labels=found["labels"].astype(np.int32, copy=False),
        )

    def close(self) -> None:
        """Release the model."""
        self._request = None


class NaiveRunner:
    """torchvision's own export in ONNX Runtime: one image of one size in, its detections out.

    Args:
        task: what it works on.
        path: the file.
        providers: ONNX Runtime's names, the wanted one first.
    """

    network_clock: NetworkClock = "wall"

    def __init__(self, task: Task, path: Path, providers: Sequence[str]) -> None:
        ort = import_onnxruntime()
        available = ort.get_available_providers()
        if providers[0] not in available:
            raise CannotRunError(f"this onnxruntime has no {providers[0]} (it has {', '.join(available)})")
        options = ort.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session: Any = ort.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
        if providers[0] not in self._session.get_providers():
            raise CannotRunError(f"ONNX Runtime's {providers[0]} does not start on this system")
        self.build_s: float | None = None
        self._spec = task.spec
        self._input = self._session.get_inputs()[0].name

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that torchvision pads an image to."""
        return padded_canvas(self._spec, image)

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch of one."""
        (image,) = images
        chw = np.ascontiguousarray(to_tensor(image).numpy())
        boxes, labels, scores = self._session.run(None, {self._input: chw})
        names = self._spec.labels
        return [Detections(boxes=boxes, scores=scores, labels=labels, image_size=image.size, label_names=names)]

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Refuse: resizing is a part of this graph."""
        raise CannotRunError("resizing is a part of torchvision's own export and cannot be taken off")

    def close(self) -> None:
        """Release the session."""
        self._session = None


def naive_onnxruntime(device: str, *, mixed_sizes: bool) -> Candidate:
    """Return torchvision's own export in ONNX Runtime, on the device that eager runs on."""
    providers = ("CPUExecutionProvider",) if device == "cpu" else ("CUDAExecutionProvider", "CPUExecutionProvider")
    return _naive("onnxruntime", "ONNX Runtime", device, providers, _NAIVE_NOTE, mixed_sizes)


def naive_tensorrt(*, mixed_sizes: bool) -> Candidate:
    """Return torchvision's own export in TensorRT, by ONNX Runtime's TensorRT provider."""
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    note = f"{_NAIVE_NOTE}; what TensorRT does not take runs in CUDA and on the CPU"
    return _naive("tensorrt", "TensorRT", "cuda", providers, note, mixed_sizes)


def _naive(backend: str, title: str, device: str, providers: Sequence[str], note: str, mixed_sizes: bool) -> Candidate:
    return Candidate(
        id=f"naive-{backend}",
        name=f"torchvision's own ONNX export, {title}",
        backend=backend,
        device=device,
        precision="fp32",
        prepare=naive_onnx,
        open=lambda task, file: NaiveRunner(task, _path(file), providers),
        images="equal-sized" if mixed_sizes else "as given",
        reference=EAGER_EQUAL_ID if mixed_sizes else EAGER_ID,
        note=note,
        max_batch=1,
    )


def onnx_candidates(artifacts: Sequence[Path]) -> list[Candidate]:
    """Return the candidates that run our ONNX files: those given, or one that is built.

    Args:
        artifacts: those given, of any kind.
    """
    given = [path for path in artifacts if path.suffix != ".frcnn"]
    if not given:
        return _ours("", built_onnx, "fp32")
    files = [(source_label(path, given), given_file(path), precision_of(path)) for path in given]
    return [candidate for file in files for candidate in _ours(*file)]


def source_label(path: Path, given: Sequence[Path]) -> str:
    """Return the name that tells a file from others of its kind; empty where it is the only one."""
    return path.stem if len(given) > 1 else ""


def precision_of(path: Path) -> str:
    """Return the precision that a file states; ``"unknown"`` where it cannot be read, which its candidate reports."""
    try:
        return open_artifact(path).manifest.precision
    except ArtifactError:
        return "unknown"


def _ours(label: str, prepare: Callable[[Task], File], precision: str) -> list[Candidate]:
    def candidate(key: str, title: str, device: str, open_file: Any, note: str = "") -> Candidate:
        return Candidate(
            id=f"{key}:{label}" if label else key,
            name=f"frcnn, {title}" + (f" ({label})" if label else ""),
            backend=key.partition("-")[0],
            device=device,
            precision=precision,
            prepare=prepare,
            open=open_file,
            note=note,
        )

    copies = "times include the copies to and from the GPU"
    inlined = "function bodies inlined; INFERENCE_PRECISION_HINT f32"
    return [
        candidate("onnxruntime-cpu", "ONNX Runtime, CPU", "cpu", partial(_onnxruntime, "cpu")),
        candidate("onnxruntime-cuda", "ONNX Runtime, CUDA", "cuda", partial(_onnxruntime, "cuda"), copies),
        candidate("openvino", "OpenVINO", "cpu", _openvino, inlined),
    ]


def _onnxruntime(device: Device, task: Task, file: File | None) -> Runner:
    path = _path(file)
    try:
        network = OnnxRuntimeBackend(path, device=device, threads=task.threads)
    except MissingDependencyError as error:
        raise CannotRunError(error.message) from error
    except ArtifactError as error:
        if "did not start" in error.message or "no CPU kernels" in error.message:
            raise CannotRunError(error.message) from error
        raise
    return NetworkRunner(network, onnx_manifest(path))


def _openvino(task: Task, file: File | None) -> Runner:
    if importlib.util.find_spec("openvino") is None:
        raise CannotRunError("the package openvino is not installed (pip install openvino)")
    path = _path(file)
    return NetworkRunner(OpenVinoNetwork(path, task.threads), onnx_manifest(path))


def onnx_manifest(path: Path) -> Manifest:
    """Return the manifest of a ``model.onnx``."""
    artifact = open_artifact(path)
    assert isinstance(artifact, OnnxArtifact)
    return artifact.manifest


def _path(file: File | None) -> Path:
    assert file is not None
    return file.path
