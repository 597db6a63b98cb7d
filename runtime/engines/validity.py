"""Whether TensorRT-RTX can run an engine on this system, asked before the engine is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from frcnn.errors import ArtifactError
from frcnn.runtime.engines.tensorrt_log import FailureLog
from frcnn.runtime.gpu.device import Device

__all__ = ["check_validity"]

_INVALID: Final[Mapping[str, str]] = {
    "VERSION_MISMATCH": "it was built by another TensorRT-RTX",
    "UNSUPPORTED_CC": "TensorRT-RTX does not run it on a GPU of this compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "there is not enough free GPU memory for it",
    "MALFORMED_ENGINE": "it is damaged or no engine",
    "CUDA_ERROR": "CUDA does not work here",
}

_REBUILD: Final = "frcnn build model.onnx -o model.frcnn --target tensorrt-rtx"
_OTHER_WAYS: Final = (
    "frcnn build model.onnx -o model.frcnn --target tensorrt, on a system with this GPU; "
    "or Detector.load('model.onnx', device='cuda')"
)
_LOOK: Final = "frcnn doctor says what CUDA is here; TensorRT-RTX for CUDA 13 needs driver r580 or later"


def check_validity(trt: Any, runtime: Any, data: bytes, *, device: Device, log: FailureLog) -> None:
    """Ask TensorRT-RTX whether it can run an engine here, before it is loaded.

    Args:
        trt: the module ``tensorrt_rtx``.
        runtime: its ``Runtime``.
        data: the serialized engine.
        device: current on this thread.
        log: what the runtime says, for reasons.

    Raises:
        ArtifactError: it cannot; the message has every reason that TensorRT-RTX gives.
    """
    validity, diagnostics = runtime.get_engine_validity(data)
    if validity != trt.EngineValidity.INVALID:
        return
    found = [name for name in _INVALID if int(diagnostics) & int(getattr(trt.EngineInvalidityDiagnostics, name))]
    raise ArtifactError(
        f"{device.name} (compute capability {device.compute_capability}): TensorRT-RTX {trt.__version__} refuses the "
        f"engine: {'; '.join(_INVALID[name] for name in found) or log.reason()}",
        hint=_hint(found),
    )


def _hint(found: list[str]) -> str:
    if "UNSUPPORTED_CC" in found:
        return _OTHER_WAYS
    if "INSUFFICIENT_GPU_MEMORY" in found:
        return "close what else uses the GPU (nvidia-smi)"
    if not found or set(found) & {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"}:
        return _LOOK
    return _REBUILD
