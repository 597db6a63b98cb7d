"""Rows that run an engine artifact (``*.frcnn``) on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.candidate import File, Runner, Task, Way
from frcnn.benchmarks.candidates.model_files import built_engine, given_file
from frcnn.benchmarks.candidates.onnx import precision_of
from frcnn.benchmarks.candidates.unavailable import CannotRunError
from frcnn.benchmarks.timing.measure import Stopwatch
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.images.preprocess import place
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Size
from frcnn.spec.engine import TARGETS, EngineManifest, Target

__all__ = ["EngineRunner", "engine_rows"]

_NAMES = {"tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_NOTE = "network: images already in device memory, the kernel that resizes and normalises them included"


class EngineRunner:
    """An engine artifact with our runtime around it.

    Args:
        path: the artifact.
        manifest: what it says of itself.
    """

    def __init__(self, path: Path, manifest: EngineManifest) -> None:
        from frcnn.benchmarks.timing.cuda_stopwatch import CudaStopwatch

        self._transform = manifest.source.model.transform
        self._canvases = canvases_of(manifest)
        self._detector = Detector.load(path)
        self.build_s: float | None = None
        self.network_stopwatch: Stopwatch = CudaStopwatch()

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that an image alone goes on."""
        return place(image, self._transform, self._canvases).canvas

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a batch on one canvas, the answers back on the host."""
        return self._detector(list(images), batch_size=len(images), same_canvas=len(images) > 1)

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what runs the network on images in device memory and leaves the answers there."""
        import torch

        arrays = [torch.from_numpy(image.uint8().copy()).cuda() for image in images]
        stream = torch.cuda.current_stream()
        torch.cuda.synchronize()
        options: dict[str, Any] = {"batch_size": len(arrays), "same_canvas": len(arrays) > 1}
        return partial(self._detector, arrays, stream=stream, device_output=True, **options)

    def close(self) -> None:
        """Release the engines."""
        self._detector.close()


def engine_rows(artifacts: Sequence[Path]) -> list[Way]:
    """Return a row per target: of the artifacts given, of one that is built, or one that says why there is none."""
    given: dict[Target, list[Path]] = {target: [] for target in TARGETS}
    for path in (path for path in artifacts if path.suffix == ".frcnn"):
        given[_target_of(path)].append(path)
    rows = []
    for target, paths in given.items():
        if not paths:
            prepare = built_engine if target == "tensorrt-rtx" else _none_given
            rows.append(_row(target, "", prepare, "fp32"))
        for path in paths:
            suffix = f":{path.stem}" if len(paths) > 1 else ""
            rows.append(_row(target, suffix, given_file(path), precision_of(path)))
    return rows


def _none_given(task: Task) -> File:
    raise CannotRunError("no artifact for TensorRT was given: frcnn build model.onnx --target tensorrt, on its GPU")


def _target_of(path: Path) -> Target:
    try:
        manifest = open_artifact(path).manifest
    except ArtifactError:
        return "tensorrt-rtx"  # its row will say that the file cannot be read
    return manifest.target if isinstance(manifest, EngineManifest) else "tensorrt-rtx"


def _row(target: Target, suffix: str, prepare: Callable[[Task], File], precision: str) -> Way:
    label = suffix.removeprefix(":")
    return Way(
        id=f"{target}{suffix}",
        name=f"frcnn, {_NAMES[target]}" + (f" ({label})" if label else ""),
        backend=target,
        device="cuda",
        precision=precision,
        prepare=prepare,
        open=_open,
        note=_NOTE,
    )


def _open(task: Task, file: File | None) -> Runner:
    import torch

    assert file is not None
    if not torch.cuda.is_available():
        raise CannotRunError("it runs on an NVIDIA GPU, and this system has none that PyTorch finds")
    manifest = open_artifact(file.path).manifest
    if not isinstance(manifest, EngineManifest):
        raise ArtifactError(f"{file.path.name} is no engine artifact")
    try:
        return EngineRunner(file.path, manifest)
    except MissingDependencyError as error:
        raise CannotRunError(error.message) from error
