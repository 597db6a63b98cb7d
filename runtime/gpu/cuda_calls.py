"""Checked calls of the CUDA driver, with hints for the errors that users meet."""

from __future__ import annotations

from typing import Any, Final

from frcnn.errors import ArtifactError, KernelError
from frcnn.plugins.cuda.dependencies import import_driver
from frcnn.plugins.cuda.driver import ask_driver

_OK: Final = "CUDA_SUCCESS"
_BROKEN_CAPTURE: Final = (
    "something in the work waits, allocates or uses another stream, which a CUDA graph cannot hold; run without graphs"
)
_DEAD: Final = (
    "every later CUDA call of this process fails like this: start a new one; "
    "compute-sanitizer python ... says which access it was"
)
_STICKY_NAMES: Final = """
    ILLEGAL_ADDRESS LAUNCH_FAILED LAUNCH_TIMEOUT ILLEGAL_INSTRUCTION MISALIGNED_ADDRESS INVALID_ADDRESS_SPACE INVALID_PC
    HARDWARE_STACK_ERROR ASSERT ECC_UNCORRECTABLE NVLINK_UNCORRECTABLE CONTAINED TENSOR_MEMORY_LEAK EXTERNAL_DEVICE
    MPS_CLIENT_TERMINATED
"""
_STICKY: Final = frozenset(f"CUDA_ERROR_{name}" for name in _STICKY_NAMES.split())
"""After one of these the context is dead and only a new process helps."""

_GONE: Final = _STICKY | {
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_INVALID_CONTEXT",
    "CUDA_ERROR_NOT_INITIALIZED",
}
"""If a release returns one of these, the resource is gone with its context."""

_HINTS: Final = {
    "CUDA_ERROR_NO_DEVICE": "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES and the container must let one through",
    "CUDA_ERROR_INVALID_DEVICE": "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES renumbers them from 0",
    "CUDA_ERROR_NOT_INITIALIZED": "a forked process cannot use its parent's GPU: start workers by 'spawn'",
    "CUDA_ERROR_INVALID_CONTEXT": "no context is current on this thread, or its owner has destroyed it",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "close the detector before the owner of the CUDA context destroys it",
    "CUDA_ERROR_INVALID_HANDLE": "the stream must be alive and belong to the context that the detector was loaded in",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver's library and kernel module differ: reboot after the update",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "the driver is older than this CUDA: install r580 or later",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "the driver is older than this CUDA: install r580 or later",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": _BROKEN_CAPTURE,
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": _BROKEN_CAPTURE,
    "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT": _BROKEN_CAPTURE,
    "CUDA_ERROR_STREAM_CAPTURE_ISOLATION": _BROKEN_CAPTURE,
    "CUDA_ERROR_STREAM_CAPTURE_UNJOINED": _BROKEN_CAPTURE,
} | dict.fromkeys(_STICKY, _DEAD)


def cuda_hint(status: str) -> str:
    """Return how to fix what a status of the driver means; empty if there is nothing to add."""
    return _HINTS.get(status, "")


def call_cuda(name: str, *arguments: Any) -> Any:
    """Call a function of the driver and return its result: several as a tuple, None if it has none."""
    try:
        status, results = ask_driver(name, *arguments)
    except KernelError as error:  # no driver, or one that is too old
        raise ArtifactError(error.message, hint=error.hint) from error
    if status != _OK:
        raise ArtifactError(f"CUDA's {name} returned {status}", hint=cuda_hint(status))
    return results[0] if len(results) == 1 else (results or None)


def driver_cuda_version() -> str:
    """Return the CUDA release that the driver serves, like ``"13.0"``."""
    number = int(call_cuda("cuDriverGetVersion"))
    return f"{number // 1000}.{number % 1000 // 10}"


def is_capturing(stream: int) -> bool:
    """Return whether a stream is being captured."""
    none = import_driver().CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    return bool(call_cuda("cuStreamIsCapturing", stream) != none)


def release_cuda(name: str, handle: Any) -> None:
    """Free or destroy something, unless its context is gone or dead."""
    status, _results = ask_driver(name, handle)
    if status != _OK and status not in _GONE:
        raise ArtifactError(f"CUDA's {name} returned {status}", hint=cuda_hint(status))
