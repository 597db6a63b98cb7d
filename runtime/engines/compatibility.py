"""Whether an engine artifact can run here, asked before TensorRT sees any of it.

All is told by plain values, so it is tried without a GPU. Every refusal is one line, and its hint the command that
builds an artifact that would not be refused or, on a GPU that TensorRT-RTX does not serve, what does.
"""

from __future__ import annotations

from typing import Final

from frcnn.errors import ArtifactError
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import Range, Target
from frcnn.spec.supported_gpus import (
    RTX_COMPUTE_CAPABILITIES,
    architecture_of,
    gpus_text,
    other_ways,
    refusal,
    runs_on,
    serves,
)

__all__ = ["check_gpu", "check_runs_here"]

_NAMES: Final[dict[Target, str]] = {"tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
_DRIVERS: Final = {12: "r525", 13: "r580"}  # CUDA release -> the first driver that serves it
_MIB: Final = 1 << 20


def check_gpu(artifact: EngineArtifact, compute_capability: str) -> None:
    """Refuse an artifact whose engines are not for a GPU; TensorRT need not be installed for that.

    Args:
        artifact: the file.
        compute_capability: of the GPU, like ``"8.9"``.

    Raises:
        ArtifactError: the target does not serve the GPU, or the engines were built for others.
    """
    target, built_for = artifact.manifest.target, artifact.manifest.compute_capabilities
    if not serves(target, compute_capability):
        raise ArtifactError(f"{artifact.path}: {refusal(compute_capability)}", hint=other_ways(compute_capability))
    if runs_on(target, built_for, compute_capability):
        return
    # a GPU that TensorRT-RTX has no name for is served by engines built for no GPU in particular
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
    """Refuse an artifact that cannot run on this system; whether its engines are for the GPU, :func:`check_gpu` says.

    Args:
        artifact: the file.
        target_version: version of the installed TensorRT or TensorRT-RTX, whichever the artifact is for.
        compute_capability: of the GPU, like ``"8.9"``.
        driver_cuda_version: the CUDA release that the driver serves, like ``"13.0"``.
        free_bytes: free memory of the GPU.

    Raises:
        ArtifactError: the first thing that does not fit.
    """
    rebuild = artifact.manifest.build_command(artifact.path)
    _check_version(artifact, target_version, rebuild)
    _check_driver(artifact, driver_cuda_version, rebuild)
    _check_kernels(artifact, compute_capability, rebuild)
    _check_memory(artifact, free_bytes)


def _check_version(artifact: EngineArtifact, version: str, rebuild: str) -> None:
    target, built = artifact.manifest.target, artifact.manifest.target_version
    if version != built:
        package = f"{target}-cu{artifact.manifest.cuda_major}=={built}"
        raise ArtifactError(
            f"{artifact.path}: its engines are for {_NAMES[target]} {built} and run on no other version, here is "
            f"{version}",
            hint=f"{rebuild}, or install that version: pip install '{package}'",
        )


def _check_driver(artifact: EngineArtifact, driver_cuda_version: str, rebuild: str) -> None:
    major = artifact.manifest.cuda_major
    if int(driver_cuda_version.partition(".")[0]) < major:
        driver = f"NVIDIA's driver {_DRIVERS[major]} or later" if major in _DRIVERS else "a newer NVIDIA driver"
        raise ArtifactError(
            f"{artifact.path}: its kernels are for CUDA {major}, the driver here serves CUDA {driver_cuda_version}",
            hint=f"install {driver}, or with TensorRT and NVRTC of the driver's CUDA release: {rebuild}",
        )


def _check_kernels(artifact: EngineArtifact, compute_capability: str, rebuild: str) -> None:
    """Ask for machine code of this very GPU, or PTX that its driver compiles."""
    architectures = artifact.manifest.architectures
    own = architecture_of(compute_capability)
    oldest = int(own.removeprefix("sm_"))
    ptx = (name.removeprefix("compute_") for name in architectures if name.startswith("compute_"))
    if own not in architectures and not any(name.isdigit() and int(name) <= oldest for name in ptx):
        raise ArtifactError(
            f"{artifact.path}: its kernels are for {', '.join(architectures) or 'no GPU'}, this one needs {own}, or "
            "PTX for it or for an older one",
            hint=rebuild,
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
        f"{artifact.path}: it needs {_mib(needed, up=True)} MiB of GPU memory and TensorRT's scratch besides, "
        f"{_mib(free_bytes)} MiB are free",
        hint=f"nvidia-smi shows what else uses the GPU; {smaller}",
    )


def _mib(size_bytes: int, *, up: bool = False) -> str:
    return f"{-(-size_bytes // _MIB) if up else size_bytes // _MIB:,}"
