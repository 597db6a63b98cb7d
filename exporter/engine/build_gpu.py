"""The GPU that is here or named: which target serves it best, and which do not support it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Final

from frcnn.errors import KernelError, MissingDependencyError, UsageError
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.cuda.driver import ask_driver, call_driver, compute_capability
from frcnn.plugins.tensorrt.library import cuda_major
from frcnn.spec.engine import Target
from frcnn.spec.supported_gpus import other_ways, refusal, serves

_OK: Final = "CUDA_SUCCESS"
_GPU: Final = re.compile(r"([1-9][0-9]?)\.([0-9])|sm_([1-9][0-9]?)([0-9])[af]?")


def choose_target(compute_capabilities: Sequence[str]) -> tuple[Target, str]:
    """Return the target for the GPUs that are named or, without any, for the one that is here, and the reason."""
    try:
        here = gpu_compute_capability()
    except MissingDependencyError:  # of CUDA, which every target needs: that of the target is named then
        here = None
    wanted = tuple(compute_capabilities) or (() if here is None else (here,))
    if not wanted:
        return "tensorrt-rtx", "no GPU is here and none is named"
    unserved = ", ".join(filter(_unserved, wanted))
    if not unserved:
        return "tensorrt-rtx", f"TensorRT-RTX serves compute capability {', '.join(wanted)}"
    reason = f"TensorRT-RTX does not serve compute capability {unserved}"
    if find_spec("tensorrt") is None:
        return "onnxruntime", f"{reason}, and TensorRT is not installed"
    if wanted != (here,):
        return "onnxruntime", f"{reason}, and TensorRT builds on the GPU that its engine is for only"
    return "tensorrt", f"{reason}, and TensorRT is installed"


def gpu_compute_capability() -> str | None:
    """Return the compute capability of the first GPU, like ``"8.9"``; None without a GPU."""
    import_driver()
    try:
        call_driver("cuInit", 0)
        return compute_capability(call_driver, call_driver("cuDeviceGet", 0))
    except KernelError:
        return None


def require_gpu(wanted: tuple[str, ...]) -> str:
    """Return the compute capability of the GPU that TensorRT builds on, which must be the one that is wanted.

    TensorRT must not be asked: some releases end the process where CUDA does not work. Raises UsageError for another
    GPU, without one, and for a driver that is older than the CUDA of the installed TensorRT.
    """
    _refuse_old_driver()
    found = gpu_compute_capability()
    without_gpu = "" if any(map(_unserved, wanted)) else ", or with --target tensorrt-rtx, which needs no GPU"
    if found is None:
        raise UsageError(
            f"--target tensorrt builds on an NVIDIA GPU, of the kind that the engine is for; found {_why_none()}",
            hint=f"build on such a system{without_gpu}",
        )
    if wanted and wanted != (found,):
        raise UsageError(
            f"--compute-capability: TensorRT builds for the GPU it runs on, {found}, got {', '.join(wanted)}",
            hint=f"build on the GPU that the engine is for{without_gpu}",
        )
    return found


def refuse_unserved(compute_capabilities: Sequence[str], architectures: Sequence[str]) -> None:
    """Raise UsageError for GPUs (``"8.9"``, ``"sm_89"``) on which artifacts for TensorRT-RTX cannot run.

    Unknown names pass: TensorRT-RTX and the kernel compiler refuse them later and list those they know.
    """
    named = [("--compute-capability", name) for name in compute_capabilities]
    named += [("--kernel-arch", name) for name in architectures]
    for option, name in named:
        if capability := _unserved(name):
            raise UsageError(f"{option} {name}: {refusal(capability)}", hint=other_ways(capability))


def _refuse_old_driver() -> None:
    """Raise UsageError if TensorRT is for a later CUDA release than the driver, where both are known."""
    wanted = cuda_major()
    with suppress(KernelError):  # there is no driver
        served = int(call_driver("cuDriverGetVersion")) // 1000
        if wanted is not None and served < wanted:
            raise UsageError(
                f"--target tensorrt: the TensorRT here is for CUDA {wanted}, NVIDIA's driver here serves CUDA {served}",
                hint=f"install a newer driver, or TensorRT for the driver's CUDA: pip install tensorrt-cu{served}",
            )


def _why_none() -> str:
    try:
        status, _ = ask_driver("cuInit", 0)
    except KernelError:
        return "none: there is no NVIDIA driver, or it is too old"
    return "none" if status == _OK else f"none: CUDA's cuInit returned {status}"


def _unserved(name: str) -> str:
    """Return the compute capability of ``"9.0"`` or ``"sm_90"`` if TensorRT-RTX does not support it, else nothing."""
    numbers = _GPU.fullmatch(name)
    capability = ".".join(filter(None, numbers.groups())) if numbers else ""
    return capability if capability and not serves("tensorrt-rtx", capability) else ""
