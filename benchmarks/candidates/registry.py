"""All candidates, in the order of the report."""

from __future__ import annotations

import dataclasses
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
from frcnn.benchmarks.candidates.nncf_int8 import NncfNetwork, nncf_of_naive, nncf_of_ours
from frcnn.benchmarks.candidates.runners import DetectorRunner, NaiveOnnxRuntimeRunner, NaiveOpenVinoRunner
from frcnn.errors import ArtifactError, MissingDependencyError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.backend import Device, Network
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.runtime.host.providers import RunPrecision
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Manifest
from frcnn.spec.engine import TARGETS, EngineManifest, Target

_NO_TENSORRT: Final = "no artifact for TensorRT was given: frcnn build model.onnx --target tensorrt, on its GPU"
_NO_INT8: Final = (
    "no int8 model was given: frcnn quantize model.onnx --images folder/ -o model-int8.onnx, then give both here"
)
_NAIVE_NOTE: Final = (
    "traced for one image of one size, by torch.onnx.export as torchvision documents it; its resizing moves boxes by "
    "hundredths of a pixel, so that its fp32 is held to the limits of fp16"
)
_ENGINE_NOTE: Final = "network: images already in device memory, the kernel that resizes and normalises them included"
_FALLBACK_NOTE: Final = "what TensorRT does not take runs in CUDA and on the CPU"
_COPIES_NOTE: Final = "times include the copies to and from the GPU"
_DEFAULTS_NOTE: Final = "OpenVINO decides what float layers are computed in: bf16 where the processor has it"
_NNCF_NOTE: Final = (
    "quantised by NNCF's defaults, calibrated on 8 images of the run; all but backbone, RPN head and box head left out"
)
_CLONE_NOTE: Final = "NNCF 3.4 fails on the file as OpenVINO reads it (nodes that lead nowhere) and works on a clone()"


def all_candidates(
    artifacts: Sequence[Path], device: str, *, mixed_sizes: bool, eager: Sequence[Candidate] | None = None
) -> list[Candidate]:
    """Return every candidate of a run; of a kind of artifact that was not given one is built where it can run.

    ``eager`` are those that run the eager model, by default torchvision's.
    """
    given: dict[str, dict[Path, AnyManifest | None]] = {kind: {} for kind in ("onnx", *TARGETS)}
    for path in artifacts:
        manifest = _manifest(path)
        target = manifest.target if isinstance(manifest, EngineManifest) else "tensorrt-rtx"
        given[target if path.suffix == ".frcnn" else "onnx"][path] = manifest
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    in_onnxruntime = partial(NaiveOnnxRuntimeRunner, providers=cuda[1:] if device == "cpu" else cuda)
    in_tensorrt = partial(NaiveOnnxRuntimeRunner, providers=["TensorrtExecutionProvider", *cuda])
    naive = partial(_naive, mixed_sizes=mixed_sizes)
    files = _files(given["onnx"], built_onnx)
    return [
        *(eager or eager_candidates(device, mixed_sizes=mixed_sizes)),
        naive("naive-onnxruntime", "ONNX Runtime", device, in_onnxruntime),
        *(_naive_openvino(naive) if device == "cpu" else ()),
        *(made for file in files for made in _onnx_candidates(file)),
        *(_rivals_and_gaps(files) if device == "cpu" else ()),
        *(_engine_candidate("onnxruntime", file) for file in _files(given["onnxruntime"])),
        *(_engine_candidate("tensorrt-rtx", file) for file in _files(given["tensorrt-rtx"], built_engine)),
        *(_engine_candidate("tensorrt", file) for file in _files(given["tensorrt"], _absent(_NO_TENSORRT))),
        naive("naive-tensorrt", "TensorRT", "cuda", in_tensorrt, note=_FALLBACK_NOTE),
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
    precisions = ["unknown" if manifest is None else manifest.precision for manifest in given.values()]
    labels = precisions if len(set(precisions)) == len(given) else [path.stem for path in given]
    return [
        _ModelFile(prepare=given_file(path), precision=precision, label=label if len(given) > 1 else "")
        for path, precision, label in zip(given, precisions, labels, strict=True)
    ]


def _absent(reason: str) -> Callable[[Task], File]:
    def refuse(_task: Task) -> File:
        raise CannotRunError(reason)

    return refuse


def _naive(
    key: str,
    title: str,
    device: str,
    open_: Callable[..., Runner],
    *,
    mixed_sizes: bool,
    note: str = "",
    precision: str = "fp32",
    prepare: Callable[[Task], File] = naive_onnx,
) -> Candidate:
    return Candidate(
        id=key,
        name=f"torchvision's own ONNX export, {title}",
        backend=key.split("-")[1],
        device=device,
        precision=precision,
        limits="fp16" if precision == "fp32" else None,
        prepare=prepare,
        open=open_,
        images="equal-sized" if mixed_sizes else "as given",
        reference=EAGER_EQUAL_ID if mixed_sizes else EAGER_ID,
        note="; ".join(filter(None, (_NAIVE_NOTE, note))),
        max_batch=1,
    )


def _naive_openvino(naive: Callable[..., Candidate]) -> list[Candidate]:
    """Return torchvision's own export in OpenVINO: as it comes, in float32, and quantised by NNCF."""
    int8 = partial(naive, precision="int8", prepare=nncf_of_naive)
    note, in_int8 = "; ".join((_NNCF_NOTE, _CLONE_NOTE, _DEFAULTS_NOTE)), partial(NaiveOpenVinoRunner, is_int8=True)
    return [
        naive("naive-openvino", "OpenVINO, its defaults", "cpu", NaiveOpenVinoRunner, note=_DEFAULTS_NOTE),
        naive("naive-openvino-fp32", "OpenVINO, fp32", "cpu", partial(NaiveOpenVinoRunner, hint="f32")),
        int8("naive-openvino-int8", "NNCF int8, OpenVINO", "cpu", in_int8, note=note),
    ]


def _onnx_candidates(file: _ModelFile) -> list[Candidate]:
    is_int8 = file.precision == "int8"
    cpu, cuda = partial(_open_onnxruntime, device="cpu"), partial(_open_onnxruntime, device="cuda")
    bf16 = partial(_open_openvino, precision="bf16")
    found = [_ours(file, "onnxruntime-cpu", "ONNX Runtime, CPU", "onnxruntime", "cpu", cpu)]
    if not is_int8:
        found.append(_ours(file, "onnxruntime-cuda", "ONNX Runtime, CUDA", "onnxruntime", "cuda", cuda, _COPIES_NOTE))
    found.append(_ours(file, "openvino", "OpenVINO", "openvino", "cpu", _open_openvino))
    if file.precision in ("fp32", "int8"):
        made = _ours(file, "openvino-bf16", "OpenVINO", "openvino", "cpu", bf16)
        name = f"{made.name}, rest bf16" if is_int8 else f"{made.name.removesuffix(', fp32')}, bf16"
        found.append(dataclasses.replace(made, name=name, precision="int8" if is_int8 else "bf16"))
    return found


def _rivals_and_gaps(files: Sequence[_ModelFile]) -> list[Candidate]:
    """Return what stands beside an int8 model of ours: NNCF's of the same graph, and how to make one if none is."""
    found = []
    if all(file.precision != "int8" for file in files):
        missing = _ModelFile(_absent(_NO_INT8), "int8")
        found.append(_ours(missing, "openvino-int8", "OpenVINO, int8", "openvino", "cpu", _open_openvino))
    source = next((file.prepare for file in files if file.precision == "fp32"), built_onnx)
    file = _ModelFile(nncf_of_ours(source), "int8")
    for key, title, hint, note in (
        ("nncf-openvino", "OpenVINO", None, f"{_NNCF_NOTE}; {_DEFAULTS_NOTE}"),
        ("nncf-openvino-fp32", "OpenVINO, rest fp32", "f32", _NNCF_NOTE),
    ):
        made = _ours(file, key, title, "openvino", "cpu", partial(_open_nncf, hint=hint), note)
        found.append(dataclasses.replace(made, name=f"NNCF int8 of our graph, {title}"))
    return found


def _engine_candidate(target: Target, file: _ModelFile) -> Candidate:
    title = {"onnxruntime": "ONNX Runtime, engines", "tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}[target]
    return _ours(file, target, title, target, "cuda", _open_engine, _ENGINE_NOTE)


def _ours(
    file: _ModelFile, key: str, title: str, backend: str, device: Device, open_: Callable[..., Runner], note: str = ""
) -> Candidate:
    return Candidate(
        id=f"{key}:{file.label}" if file.label else key,
        name=f"frcnn, {title}" + (f", {file.label}" if file.label else ""),
        backend=backend,
        device=device,
        precision=file.precision,
        prepare=file.prepare,
        open=open_,
        note=note,
    )


def _open_onnxruntime(task: Task, path: Path, *, device: Device) -> Runner:
    try:
        return _with_our_runtime(onnx_manifest(path), OnnxRuntimeBackend(path, provider=device, threads=task.threads))
    except ArtifactError as error:
        if "did not start" in error.message or "no CPU kernels" in error.message:
            raise CannotRunError(error.message) from error
        raise


def _open_openvino(task: Task, path: Path, *, precision: RunPrecision = "fp32") -> Runner:
    try:
        return _with_our_runtime(onnx_manifest(path), OpenVinoBackend(path, precision=precision, threads=task.threads))
    except MissingDependencyError as error:
        raise CannotRunError(f"{error.message} ({error.hint})") from error
    except UsageError as error:  # this processor has no bf16
        raise CannotRunError(error.message) from error


def _open_nncf(task: Task, path: Path, *, hint: str | None) -> Runner:
    network = NncfNetwork(path, threads=task.threads, hint=hint)
    return _with_our_runtime(network.manifest, network)


def _with_our_runtime(manifest: Manifest, network: Network) -> Runner:
    return DetectorRunner(Detector(HostBackend(network, manifest), manifest), manifest, network)


def _open_engine(_: Task, path: Path) -> Runner:
    import torch

    if not torch.cuda.is_available():
        raise CannotRunError(NO_GPU)
    manifest = open_artifact(path).manifest
    if not isinstance(manifest, EngineManifest):
        raise ArtifactError(f"{path.name} is no engine artifact")
    return DetectorRunner(Detector.load(path), manifest)
