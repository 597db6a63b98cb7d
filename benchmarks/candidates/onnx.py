"""Rows that run an ONNX file: ours in ONNX Runtime and OpenVINO, and torchvision's own export."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.candidate import File, Runner, Task, Way
from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.benchmarks.candidates.model_files import built_onnx, given_file, naive_onnx
from frcnn.benchmarks.candidates.unavailable import CannotRunError
from frcnn.benchmarks.timing.measure import Stopwatch, WallStopwatch
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.backend import Network, NetworkOutput
from frcnn.runtime.dependencies import import_onnx, import_onnxruntime
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.images.preprocess import Prepared, common_canvas, onto_canvas, place, with_pixels
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.spec import Manifest, Size

__all__ = ["NaiveRunner", "NetworkRunner", "OpenVinoNetwork", "onnx_rows"]

_NAIVE_NOTE = "traced for one image of one size, by torch.onnx.export as torchvision documents it"
_ON_HOST = "times include the copies to and from the GPU"


class NetworkRunner:
    """A ``model.onnx`` with our runtime around it, whatever executes the network.

    Args:
        network: executes it; closed with the runner.
        manifest: the file's.
    """

    def __init__(self, network: Network, manifest: Manifest) -> None:
        self._network = network
        self._manifest = manifest
        self._backend = HostBackend(network, manifest)
        self._detector = Detector(self._backend, manifest)
        self.build_s: float | None = None
        self.network_stopwatch: Stopwatch = WallStopwatch()

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that an image alone goes on."""
        return place(image, self._manifest.model.transform, self._backend.canvases).canvas

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch on one canvas."""
        return self._detector(list(images), batch_size=len(images), same_canvas=len(images) > 1)

    def network(self, raw_images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what runs only the network on a prepared batch."""
        transform = self._manifest.model.transform
        placed = [place(image, transform, self._backend.canvases) for image in raw_images]
        canvas = common_canvas(placed, self._backend.canvases)
        prepared = [with_pixels(onto_canvas(item, canvas), transform) for item in placed]
        images, sizes = _stacked(prepared)
        return lambda: self._network.run(images, sizes)

    def close(self) -> None:
        """Release the network."""
        self._detector.close()


def _stacked(prepared: Sequence[Prepared]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    images = np.stack([item.pixels for item in prepared])
    return images, np.array([item.resized for item in prepared], np.int32)


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

        proto = inline_local_functions(onnx.load(path))
        core: Any = openvino.Core()
        model = core.read_model(model=proto.SerializeToString())
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
        path: the file.
        spec_labels: class names.
        providers: ONNX Runtime's names, the first one wanted.
        threads: processor threads.
        transform: of the model, for the canvas.
    """

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
        self._spec = task.spec
        self._input = self._session.get_inputs()[0].name
        self.build_s: float | None = None
        self.network_stopwatch: Stopwatch = WallStopwatch()

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that torchvision pads an image to."""
        transform = self._spec.transform
        return transform.canvas_size(*transform.resized_size(*image.size))

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch of one."""
        (image,) = images
        chw = np.ascontiguousarray(to_tensor(image).numpy())
        boxes, labels, scores = self._session.run(None, {self._input: chw})
        return [
            Detections(boxes=boxes, scores=scores, labels=labels, image_size=image.size, label_names=self._spec.labels)
        ]

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Refuse: resizing is a part of this graph."""
        raise CannotRunError("resizing is a part of torchvision's own export and cannot be taken off")

    def close(self) -> None:
        """Release the session."""
        self._session = None


def onnx_rows(artifacts: Sequence[Path], device: str, *, equal_sized: bool) -> list[Way]:
    """Return the rows that run an ONNX file.

    Args:
        artifacts: those that were given, of any kind; without a ``model.onnx`` among them one is built.
        device: where torchvision's own export runs.
        equal_sized: whether the images differ in size, so that it takes resized ones.
    """
    naive: Literal["as given", "equal-sized"] = "equal-sized" if equal_sized else "as given"
    reference = "eager-fp32-equal" if equal_sized else "eager-fp32"
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    rows = [
        Way(
            id="naive-onnxruntime",
            name="torchvision's own ONNX export, ONNX Runtime",
            backend="onnxruntime",
            device=device,
            precision="fp32",
            prepare=naive_onnx,
            open=lambda task, file: NaiveRunner(task, _path(file), _providers(provider)),
            images=naive,
            reference=reference,
            note=_NAIVE_NOTE,
            largest_batch=1,
        )
    ]
    for suffix, prepare, precision in _sources(artifacts):
        rows += _ours(suffix, prepare, precision)
    return rows


def naive_tensorrt(*, equal_sized: bool) -> Way:
    """Return the row of torchvision's own export in TensorRT, by ONNX Runtime's TensorRT provider."""
    return Way(
        id="naive-tensorrt",
        name="torchvision's own ONNX export, TensorRT",
        backend="tensorrt",
        device="cuda",
        precision="fp32",
        prepare=naive_onnx,
        open=lambda task, file: NaiveRunner(
            task, _path(file), ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
        ),
        images="equal-sized" if equal_sized else "as given",
        reference="eager-fp32-equal" if equal_sized else "eager-fp32",
        note=_NAIVE_NOTE + "; what TensorRT does not take runs in CUDA and on the CPU",
        largest_batch=1,
    )


def _providers(first: str) -> tuple[str, ...]:
    return (first,) if first == "CPUExecutionProvider" else (first, "CPUExecutionProvider")


def _sources(artifacts: Sequence[Path]) -> list[tuple[str, Callable[[Task], File], str]]:
    """Return (suffix of the ids, what makes the file, precision) of every ``model.onnx``: given ones, or one built."""
    given = [path for path in artifacts if path.suffix != ".frcnn"]
    if not given:
        return [("", built_onnx, "fp32")]
    return [(f":{path.stem}" if len(given) > 1 else "", given_file(path), precision_of(path)) for path in given]


def precision_of(path: Path) -> str:
    """Return the precision that a file says it has; ``"unknown"`` where it cannot be read, which its row will say."""
    try:
        return open_artifact(path).manifest.precision
    except ArtifactError:
        return "unknown"


def _ours(suffix: str, prepare: Callable[[Task], File], precision: str) -> list[Way]:
    label = suffix.removeprefix(":")
    of = f" ({label})" if label else ""
    common: dict[str, Any] = {"precision": precision, "prepare": prepare}
    return [
        Way(
            id=f"onnxruntime-cpu{suffix}",
            name=f"frcnn, ONNX Runtime, CPU{of}",
            backend="onnxruntime",
            device="cpu",
            open=lambda task, file: _onnxruntime(task, file, "cpu"),
            **common,
        ),
        Way(
            id=f"onnxruntime-cuda{suffix}",
            name=f"frcnn, ONNX Runtime, CUDA{of}",
            backend="onnxruntime",
            device="cuda",
            open=lambda task, file: _onnxruntime(task, file, "cuda"),
            note=_ON_HOST,
            **common,
        ),
        Way(
            id=f"openvino{suffix}",
            name=f"frcnn, OpenVINO{of}",
            backend="openvino",
            device="cpu",
            open=_openvino,
            note="function bodies inlined; INFERENCE_PRECISION_HINT f32",
            **common,
        ),
    ]


def _onnxruntime(task: Task, file: File | None, device: Any) -> Runner:
    path = _path(file)
    try:
        network = OnnxRuntimeBackend(path, device=device, threads=task.threads)
    except MissingDependencyError as error:
        raise CannotRunError(error.message) from error
    except ArtifactError as error:
        if "did not start" in error.message or "no CPU kernels" in error.message:
            raise CannotRunError(error.message) from error
        raise
    return NetworkRunner(network, _onnx_manifest(path))


def _openvino(task: Task, file: File | None) -> Runner:
    if importlib.util.find_spec("openvino") is None:
        raise CannotRunError("the package openvino is not installed (pip install openvino)")
    path = _path(file)
    return NetworkRunner(OpenVinoNetwork(path, task.threads), _onnx_manifest(path))


def _onnx_manifest(path: Path) -> Manifest:
    artifact = open_artifact(path)
    assert isinstance(artifact, OnnxArtifact)
    return artifact.manifest


def _path(file: File | None) -> Path:
    assert file is not None
    return file.path
