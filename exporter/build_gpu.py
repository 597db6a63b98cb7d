"""The GPU that TensorRT builds on; TensorRT-RTX needs none."""

from __future__ import annotations

from frcnn.errors import KernelError, UsageError
from frcnn.plugins.dependencies import import_driver
from frcnn.plugins.driver import ask_driver

__all__ = ["gpu_compute_capability", "require_gpu"]

_OK = "CUDA_SUCCESS"


def gpu_compute_capability() -> str | None:
    """Return the compute capability, like ``"8.9"``, of the first GPU, on which TensorRT builds; None without one.

    Raises:
        MissingDependencyError: ``cuda-bindings`` is not installed.
    """
    attributes = import_driver().CUdevice_attribute
    try:
        status, _ = ask_driver("cuInit", 0)
        if status != _OK:
            return None
        status, found = ask_driver("cuDeviceGet", 0)
        if status != _OK:
            return None
        numbers = []
        for name in ("MAJOR", "MINOR"):
            attribute = getattr(attributes, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{name}")
            status, (number,) = ask_driver("cuDeviceGetAttribute", attribute, found[0])
            numbers.append(int(number))
    except KernelError:
        return None
    return f"{numbers[0]}.{numbers[1]}" if status == _OK else None


def require_gpu(wanted: tuple[str, ...]) -> str:
    """Return the compute capability of the GPU that TensorRT builds on.

    Args:
        wanted: what the engine is to be for; empty: that GPU.

    Raises:
        UsageError: there is none, or it is not what the engine is to be for.
        MissingDependencyError: ``cuda-bindings`` is not installed.
    """
    found = gpu_compute_capability()
    if found is None:
        raise UsageError(
            "--target tensorrt builds on an NVIDIA GPU, of the kind that the engine is for; found none",
            hint="build on such a machine, or with --target tensorrt-rtx, which needs no GPU",
        )
    if wanted and wanted != (found,):
        raise UsageError(
            f"--compute-capability: TensorRT builds for the GPU it runs on, {found}, got {', '.join(wanted)}",
            hint="build on the GPU that the engine is for, or with --target tensorrt-rtx",
        )
    return found
