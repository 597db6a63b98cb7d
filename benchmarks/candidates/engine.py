"""Candidates that run an engine artifact (``*.frcnn``) on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.candidate import Candidate, CannotRunError, File, NetworkClock, Runner, Task
from frcnn.benchmarks.candidates.model_files import NO_GPU, built_engine, given_file
from frcnn.benchmarks.candidates.onnx import DetectorRunner, precision_of, source_label
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime import Detector, RGBImage
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec.engine import TARGETS, EngineManifest, Target

__all__ = ["EngineRunner", "engine_candidates"]

_NAMES: Final[dict[Target, str]] = {"tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_NOTE: Final = "network: images already in device memory, the kernel that resizes and normalises them included"


class EngineRunner(DetectorRunner):
    """An engine artifact with our runtime around it.

    Args:
        path: the artifact.
        manifest: the file's.
    """

    network_clock: NetworkClock = "cuda"

    def __init__(self, path: Path, manifest: EngineManifest) -> None:
        super().__init__(Detector.load(path), manifest.source.model.transform, canvases_of(manifest))

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what detects in images in device memory and leaves the detections there."""
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


def engine_candidates(artifacts: Sequence[Path]) -> list[Candidate]:
    """Return at least one candidate per target: artifacts given, one that is built, or one that says why it is not."""
    given: dict[Target, list[Path]] = {target: [] for target in TARGETS}
    for path in (path for path in artifacts if path.suffix == ".frcnn"):
        given[_target_of(path)].append(path)
    candidates = []
    for target, paths in given.items():
        if not paths:
            candidates.append(_candidate(target, "", built_engine if target == "tensorrt-rtx" else _none_given, "fp32"))
        files = [(source_label(path, paths), given_file(path), precision_of(path)) for path in paths]
        candidates += [_candidate(target, *file) for file in files]
    return candidates


def _none_given(task: Task) -> File:
    raise CannotRunError("no artifact for TensorRT was given: frcnn build model.onnx --target tensorrt, on its GPU")


def _target_of(path: Path) -> Target:
    try:
        manifest = open_artifact(path).manifest
    except ArtifactError:
        return "tensorrt-rtx"  # the candidate reports that the file cannot be read
    return manifest.target if isinstance(manifest, EngineManifest) else "tensorrt-rtx"


def _candidate(target: Target, label: str, prepare: Callable[[Task], File], precision: str) -> Candidate:
    return Candidate(
        id=f"{target}:{label}" if label else target,
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
        raise CannotRunError(NO_GPU)
    manifest = open_artifact(file.path).manifest
    if not isinstance(manifest, EngineManifest):
        raise ArtifactError(f"{file.path.name} is no engine artifact")
    try:
        return EngineRunner(file.path, manifest)
    except MissingDependencyError as error:
        raise CannotRunError(error.message) from error
