"""All candidates, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from frcnn.benchmarks.candidates.artifacts import AnyManifest, onnx_manifest
from frcnn.benchmarks.candidates.candidate import (
    EAGER_EQUAL_ID,
    EAGER_ID,
    Candidate,
    CannotRunError,
    File,
    Runner,
    Task,
)
from frcnn.benchmarks.candidates.eager import eager_candidates
from frcnn.benchmarks.candidates.model_files import NO_GPU, built_engine, built_onnx, given_file, naive_onnx
from frcnn.benchmarks.candidates.runners import DetectorRunner, NaiveRunner
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime import Detector
from frcnn.runtime.backend import Device, Network
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec.engine import TARGETS, EngineManifest, Target

__all__ = ["all_candidates"]

_NAIVE_NOTE: Final = "traced for one image of one size, by torch.onnx.export as torchvision documents it"
_ENGINE_NOTE: Final = "network: images already in device memory, the kernel that resizes and normalises them included"
_COPIES_NOTE: Final = "times include the copies to and from the GPU"
_OPENVINO_NOTE: Final = "function bodies inlined; INFERENCE_PRECISION_HINT f32"


def all_candidates(artifacts: Sequence[Path], device: str, *, mixed_sizes: bool) -> list[Candidate]:
    """Return every candidate of a run.

    Args:
        artifacts: the model files that were given; of a kind that is missing one is built where it can run.
        device: where eager runs, ``"cpu"`` or ``"cuda"``.
        mixed_sizes: whether the images differ in size, so that candidates of one size take resized ones.
    """
    given: dict[str, dict[Path, AnyManifest | None]] = {kind: {} for kind in ("onnx", *TARGETS)}
    for path in artifacts:
        manifest = _manifest(path)
        target = manifest.target if isinstance(manifest, EngineManifest) else "tensorrt-rtx"
        given[target if path.suffix == ".frcnn" else "onnx"][path] = manifest
    cpu, cuda = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
    partly = f"{_NAIVE_NOTE}; what TensorRT does not take runs in CUDA and on the CPU"
    return [
        *eager_candidates(device, mixed_sizes=mixed_sizes),
        _naive("onnxruntime", "ONNX Runtime", device, cpu if device == "cpu" else cuda, _NAIVE_NOTE, mixed_sizes),
        *(made for file in _files(given["onnx"], built_onnx) for made in _onnx_candidates(file)),
        *(_engine_candidate("onnxruntime", file) for file in _files(given["onnxruntime"])),
        *(_engine_candidate("tensorrt-rtx", file) for file in _files(given["tensorrt-rtx"], built_engine)),
        *(_engine_candidate("tensorrt", file) for file in _files(given["tensorrt"], _none_given)),
        _naive("tensorrt", "TensorRT", "cuda", ["TensorrtExecutionProvider", *cuda], partly, mixed_sizes),
    ]


class _ModelFile(NamedTuple):
    """What makes or finds a file, its precision, and the name that tells it from others of its kind."""

    prepare: Callable[[Task], File]
    precision: str = "fp32"
    label: str = ""


def _manifest(path: Path) -> AnyManifest | None:
    try:
        return open_artifact(path).manifest
    except ArtifactError:  # its candidate reports why
        return None


def _files(given: dict[Path, AnyManifest | None], build: Callable[[Task], File] | None = None) -> list[_ModelFile]:
    """Return the files given of a kind, or else the one that is built, if any."""
    if not given:
        return [] if build is None else [_ModelFile(build)]
    return [
        _ModelFile(
            prepare=given_file(path),
            precision="unknown" if manifest is None else manifest.precision,
            label=path.stem if len(given) > 1 else "",
        )
        for path, manifest in given.items()
    ]


def _none_given(task: Task) -> File:
    raise CannotRunError("no artifact for TensorRT was given: frcnn build model.onnx --target tensorrt, on its GPU")


def _naive(backend: str, title: str, device: str, providers: Sequence[str], note: str, mixed_sizes: bool) -> Candidate:
    return Candidate(
        id=f"naive-{backend}",
        name=f"torchvision's own ONNX export, {title}",
        backend=backend,
        device=device,
        precision="fp32",
        prepare=naive_onnx,
        open=partial(NaiveRunner, providers=providers),
        images="equal-sized" if mixed_sizes else "as given",
        reference=EAGER_EQUAL_ID if mixed_sizes else EAGER_ID,
        note=note,
        max_batch=1,
    )


def _onnx_candidates(file: _ModelFile) -> list[Candidate]:
    cpu, cuda = partial(_open_onnxruntime, device="cpu"), partial(_open_onnxruntime, device="cuda")
    return [
        _ours(file, "onnxruntime-cpu", "ONNX Runtime, CPU", "onnxruntime", "cpu", cpu),
        _ours(file, "onnxruntime-cuda", "ONNX Runtime, CUDA", "onnxruntime", "cuda", cuda, _COPIES_NOTE),
        _ours(file, "openvino", "OpenVINO", "openvino", "cpu", _open_openvino, _OPENVINO_NOTE),
    ]


def _engine_candidate(target: Target, file: _ModelFile) -> Candidate:
    title = {"onnxruntime": "ONNX Runtime, engines", "tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}[target]
    return _ours(file, target, title, target, "cuda", _open_engine, _ENGINE_NOTE)


def _ours(
    file: _ModelFile, key: str, title: str, backend: str, device: Device, open_: Callable[..., Runner], note: str = ""
) -> Candidate:
    return Candidate(
        id=f"{key}:{file.label}" if file.label else key,
        name=f"frcnn, {title}" + (f" ({file.label})" if file.label else ""),
        backend=backend,
        device=device,
        precision=file.precision,
        prepare=file.prepare,
        open=open_,
        note=note,
    )


def _open_onnxruntime(task: Task, path: Path, *, device: Device) -> Runner:
    try:
        return _with_our_runtime(path, OnnxRuntimeBackend(path, provider=device, threads=task.threads))
    except ArtifactError as error:
        if "did not start" in error.message or "no CPU kernels" in error.message:
            raise CannotRunError(error.message) from error
        raise


def _open_openvino(task: Task, path: Path) -> Runner:
    try:
        return _with_our_runtime(path, OpenVinoBackend(path, threads=task.threads))
    except MissingDependencyError as error:
        raise CannotRunError(f"{error.message} ({error.hint})") from error


def _with_our_runtime(path: Path, network: Network) -> Runner:
    manifest = onnx_manifest(path)
    return DetectorRunner(Detector(HostBackend(network, manifest), manifest), manifest, network)


def _open_engine(_: Task, path: Path) -> Runner:
    import torch

    if not torch.cuda.is_available():
        raise CannotRunError(NO_GPU)
    manifest = open_artifact(path).manifest
    if not isinstance(manifest, EngineManifest):
        raise ArtifactError(f"{path.name} is no engine artifact")
    return DetectorRunner(Detector.load(path), manifest)
