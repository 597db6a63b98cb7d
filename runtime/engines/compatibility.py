"""The library that runs an engine artifact here, and checks that it can, before an engine is loaded.

Every refusal is one line. Its hint is the command that builds an artifact that would not be refused or, on a GPU that
TensorRT-RTX does not serve, the alternatives.

TensorRT's lean runtime has no builder and no plugins and takes a twentieth of the disk. Our version compatible engines
leave it out of their plans, so they run in the release that built them only (NVIDIA, ``IRuntime::loadRuntime``): the
whole of that release, or its lean runtime, which can be installed beside a TensorRT of another release.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.packages import is_installed
from frcnn.runtime.dependencies import TensorRTLibrary, import_tensorrt
from frcnn.runtime.engines.tensorrt_log import FailureLog
from frcnn.runtime.gpu.device import Device
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import EngineManifest, Range
from frcnn.spec.gpu_runs import TARGET_NAMES
from frcnn.spec.supported_gpus import (
    RTX_COMPUTE_CAPABILITIES,
    architecture_of,
    gpus_text,
    other_ways,
    refusal,
    runs_on,
    serves,
)

_OLDEST_ONNXRUNTIME: Final = (1, 29)
_FIRST_FOR_CUDA_13: Final = (10, 13, 2)  # older releases of TensorRT have packages for CUDA 12 only
_DRIVERS: Final = {12: "r525", 13: "r580"}  # CUDA release -> the first driver that serves it
_MIB: Final = 1 << 20

_INVALID: Final[Mapping[str, str]] = {
    "VERSION_MISMATCH": "it was built by another TensorRT-RTX",
    "UNSUPPORTED_CC": "TensorRT-RTX does not run it on a GPU of this compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "there is not enough free GPU memory for it",
    "MALFORMED_ENGINE": "it is damaged or no engine",
    "CUDA_ERROR": "CUDA does not work here",
}
"""The diagnostics of TensorRT-RTX."""


def choose_tensorrt(artifact: EngineArtifact) -> tuple[TensorRTLibrary, ModuleType]:
    """Return the library and its module that run an artifact here, the whole TensorRT where its release fits.

    Raises:
        MissingDependencyError: nothing that would run it is installed.
        ArtifactError: only a lean runtime is installed, which does not run these engines.
    """
    manifest = artifact.manifest
    try:
        module = import_tensorrt(manifest.target)
    except MissingDependencyError as error:
        if manifest.target != "tensorrt":
            raise
        return "tensorrt-lean", _lean_runtime(artifact, error)
    if manifest.version_compatible and module.__version__ != manifest.target_version:
        with suppress(MissingDependencyError):
            lean = import_tensorrt("tensorrt-lean")
            if lean.__version__ == manifest.target_version:
                return "tensorrt-lean", lean
    return manifest.target, module


def _lean_runtime(artifact: EngineArtifact, missing: MissingDependencyError) -> ModuleType:
    """Return the lean runtime where TensorRT is ``missing``, or refuse an artifact that it does not run."""
    manifest = artifact.manifest
    install = f"pip install '{release(manifest, lean=True)}'"
    if not manifest.version_compatible:
        if is_installed("tensorrt") or not is_installed("tensorrt_lean"):
            raise missing
        raise ArtifactError(
            f"{artifact.path}: TensorRT's lean runtime, which is here without TensorRT, runs version compatible "
            "engines only, and these are not",
            hint=f"{manifest.build_command(artifact.path)} --version-compatible, or install TensorRT: "
            f"pip install '{release(manifest)}'",
        )
    try:
        lean = import_tensorrt("tensorrt-lean")
    except MissingDependencyError as error:
        if is_installed("tensorrt"):
            raise missing from error
        error.hint = install
        raise
    if lean.__version__ != manifest.target_version:
        raise ArtifactError(
            f"{artifact.path}: its engines run in the lean runtime of TensorRT {manifest.target_version} only, here is "
            f"that of {lean.__version__}",
            hint=f"{install}, or {manifest.build_command(artifact.path)}",
        )
    return lean


def check_gpu(artifact: EngineArtifact, compute_capability: str) -> None:
    """Refuse an artifact whose engines are not for a GPU; TensorRT need not be installed."""
    target, built_for = artifact.manifest.target, artifact.manifest.compute_capabilities
    if not serves(target, compute_capability):
        raise ArtifactError(f"{artifact.path}: {refusal(compute_capability)}", hint=other_ways(compute_capability))
    if runs_on(target, built_for, compute_capability):
        return
    # TensorRT-RTX has no name for newer GPUs, which run engines built for any GPU
    wanted = (*built_for, compute_capability) if compute_capability in RTX_COMPUTE_CAPABILITIES else ()
    here = "" if target == "tensorrt-rtx" else "on this system: "
    raise ArtifactError(
        f"{artifact.path}: its engines are for GPUs of compute capability {gpus_text(built_for)}, this one has "
        f"{compute_capability}",
        hint=here + artifact.manifest.build_command(artifact.path, compute_capabilities=wanted),
    )


def check_runs_here(
    artifact: EngineArtifact,
    *,
    target_version: str,
    compute_capability: str,
    driver_cuda_version: str,
    free_bytes: int,
) -> None:
    """Refuse an artifact that cannot run on this system; :func:`check_gpu` comes first."""
    manifest = artifact.manifest
    rebuild, major = manifest.build_command(artifact.path), manifest.cuda_major
    _check_version(artifact, target_version)
    if int(driver_cuda_version.partition(".")[0]) < major:
        driver = f"NVIDIA's driver {_DRIVERS[major]} or later" if major in _DRIVERS else "a newer NVIDIA driver"
        raise ArtifactError(
            f"{artifact.path}: its kernels are for CUDA {major}, the driver here serves CUDA {driver_cuda_version}",
            hint=f"install {driver}, or with packages for the driver's CUDA release: {rebuild}",
        )
    own = architecture_of(compute_capability)
    if not manifest.code_for(own):
        raise ArtifactError(
            f"{artifact.path}: its kernels are for {', '.join(manifest.architectures) or 'no GPU'}, this one needs "
            f"{own}, or PTX for it or for an older one",
            hint=rebuild,
        )
    _check_memory(artifact, free_bytes)


def release(manifest: EngineManifest, *, lean: bool = False) -> str:
    """Return the package that runs an artifact, pinned to the release that built it: ``tensorrt-cu13==11.2.1.2``."""
    major, built = manifest.cuda_major, manifest.target_version
    if manifest.target == "tensorrt" and _numbers(built) < _FIRST_FOR_CUDA_13:
        major = 12
    return f"{manifest.target}{'-lean' if lean else ''}-cu{major}=={built}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def check_validity(trt: Any, runtime: Any, data: bytes, *, device: Device, log: FailureLog) -> None:
    """Ask TensorRT-RTX whether it can run an engine here, before it is loaded; the error has every reason it gives."""
    validity, diagnostics = runtime.get_engine_validity(data)
    if validity != trt.EngineValidity.INVALID:
        return
    found = [name for name in _INVALID if int(diagnostics) & int(getattr(trt.EngineInvalidityDiagnostics, name))]
    if "UNSUPPORTED_CC" in found:
        hint = other_ways(device.compute_capability)
    elif "INSUFFICIENT_GPU_MEMORY" in found:
        hint = "close what else uses the GPU (nvidia-smi)"
    elif not found or set(found) & {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"}:
        hint = "frcnn doctor reports the CUDA that is here; TensorRT-RTX for CUDA 13 needs driver r580 or later"
    else:
        hint = "frcnn build model.onnx -o model.frcnn --target tensorrt-rtx"
    raise ArtifactError(
        f"{device.name} (compute capability {device.compute_capability}): TensorRT-RTX {trt.__version__} refuses the "
        f"engine: {'; '.join(_INVALID[name] for name in found) or log.explain().reason}",
        hint=hint,
    )


def _check_version(artifact: EngineArtifact, version: str) -> None:
    """Refuse engines that the installed package cannot run: TensorRT's run on their own version only."""
    manifest = artifact.manifest
    built, target = manifest.target_version, manifest.target
    if target == "onnxruntime":
        if _numbers(version)[:2] < _OLDEST_ONNXRUNTIME:
            oldest = ".".join(map(str, _OLDEST_ONNXRUNTIME))
            raise ArtifactError(
                f"{artifact.path}: its networks need ONNX Runtime {oldest} or later, here is {version}",
                hint=f"pip install 'onnxruntime-gpu>={oldest}'",
            )
    elif version != built:
        lean = f"its lean runtime beside this one: pip install '{release(manifest, lean=True)}'"
        raise ArtifactError(
            f"{artifact.path}: its engines are for {TARGET_NAMES[target]} {built} and run on no other version, here is "
            f"{version}",
            hint=f"{manifest.build_command(artifact.path)}, or install "
            + (lean if manifest.version_compatible else f"that version: pip install '{release(manifest)}'"),
        )


def _check_memory(artifact: EngineArtifact, free_bytes: int) -> None:
    manifest = artifact.manifest
    needed = manifest.memory.total_bytes
    if needed <= free_bytes:
        return
    minimum = min(profile.batch.min for profile in manifest.profiles)
    one = Range(min=minimum, opt=minimum, max=minimum)
    smaller = (
        f"a batch of {minimum} takes less: {manifest.build_command(artifact.path, batch=one)}"
        if any(profile.batch.max > minimum for profile in manifest.profiles)
        else "a smaller canvas takes less: the option --size of frcnn build"
    )
    raise ArtifactError(
        f"{artifact.path}: it needs {-(-needed // _MIB):,} MiB of GPU memory and the engines' scratch besides, "
        f"{free_bytes // _MIB:,} MiB are free",
        hint=f"nvidia-smi shows what else uses the GPU; {smaller}",
    )
