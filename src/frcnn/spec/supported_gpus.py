"""Which GPUs each target serves; building, loading and ``frcnn doctor`` all ask here, by plain values.

TensorRT builds on the GPU that its engine is for and decides there. TensorRT-RTX builds without one, and serves what is
listed here; the list is that of TensorRT-RTX 1.7.1, whose loader refuses every other GPU. ONNX Runtime serves every
GPU that an artifact has kernels for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from frcnn.spec import PRECISIONS, Precision
from frcnn.spec.engine import Target

RTX_COMPUTE_CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Those that TensorRT-RTX can be told to build for; not 9.0 and 10.x (data centre), nor 8.7 and 11.0 (Jetson)."""

RTX_DEFAULT: Final = RTX_COMPUTE_CAPABILITIES[1:]
"""Those that it builds for unless it is told some; such engines also run on every later one than the last."""


def serves(target: Target, compute_capability: str) -> bool:
    """Return whether engines for a target can run on a GPU at all, given its compute capability, like ``"8.9"``."""
    return target != "tensorrt-rtx" or compute_capability in RTX_COMPUTE_CAPABILITIES or _is_later(compute_capability)


def precisions(target: Target, compute_capability: str) -> tuple[Precision, ...]:
    """Return the precisions of which a target has engines for a GPU; none where it does not serve the GPU."""
    if not serves(target, compute_capability):
        return ()
    return ("fp16",) if (target, compute_capability) == ("tensorrt-rtx", "7.5") else PRECISIONS


def runs_on(target: Target, built_for: Sequence[str], compute_capability: str) -> bool:
    """Return whether engines run on a GPU; without ``built_for`` they are built for the target's default."""
    if target == "onnxruntime":
        return True
    if built_for:
        return compute_capability in built_for and serves(target, compute_capability)
    return target == "tensorrt" or compute_capability in RTX_DEFAULT or _is_later(compute_capability)


def gpus_text(built_for: Sequence[str]) -> str:
    """Return the compute capabilities that engines are for; none stand for TensorRT-RTX's default."""
    return ", ".join(built_for) or f"{', '.join(RTX_DEFAULT)} and later"


def refusal(compute_capability: str) -> str:
    """Return a message: TensorRT-RTX does not serve this GPU, but those."""
    served = ", ".join(RTX_COMPUTE_CAPABILITIES)
    return f"TensorRT-RTX serves GPUs of compute capability {served} and later, not {compute_capability}"


def other_ways(compute_capability: str) -> str:
    """Return what to do on a GPU that TensorRT-RTX does not serve, as a hint."""
    if _number(compute_capability) < _number(RTX_COMPUTE_CAPABILITIES[0]):
        return "on such a system run model.onnx on the processor: Detector.load('model.onnx')"
    return (
        "for such a GPU build with ONNX Runtime, frcnn build model.onnx --target onnxruntime, or on it with TensorRT: "
        "frcnn build model.onnx --target tensorrt"
    )


def architecture_of(compute_capability: str) -> str:
    """Return the architecture that machine code for a GPU is compiled for, like ``"sm_89"``."""
    return f"sm_{compute_capability.replace('.', '')}"


def _is_later(compute_capability: str) -> bool:
    return _number(compute_capability) > _number(RTX_COMPUTE_CAPABILITIES[-1])


def _number(compute_capability: str) -> tuple[int, ...]:
    return tuple(map(int, compute_capability.split(".")))
