"""Execute ``model.onnx`` with ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, MissingDependencyError, UsageError
from frcnn.runtime.backend import Device, NetworkOutput
from frcnn.runtime.dependencies import import_onnxruntime

__all__ = ["OnnxRuntimeBackend", "available_cpus"]

_INPUTS: Final = ("images", "image_sizes")
_OUTPUTS: Final = ("num_detections", "boxes", "scores", "labels")
_DTYPES: Final[dict[str, type[np.float32] | type[np.float16]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_PROVIDERS: Final[dict[Device, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FATAL_ONLY: Final = 4
_REMAKE: Final = "export the model again: frcnn export CHECKPOINT -o model.onnx"


def available_cpus() -> int:
    """Return the number of processors this process may use (a container's share, not the whole machine)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


class OnnxRuntimeBackend:
    """A ``Backend`` on ONNX Runtime.

    Args:
        path: the model.
        device: ``"cpu"``, or ``"cuda"`` where onnxruntime-gpu and its CUDA libraries are installed.
        threads: threads of one operator; all processors this process may use by default.

    Raises:
        ArtifactError: ONNX Runtime cannot load the model, or its inputs and outputs are not a detector's.
        MissingDependencyError: ONNX Runtime, or its form for the device, is not installed.
        UsageError: an unknown device, or less than one thread.
    """

    def __init__(self, path: Path, *, device: Device = "cpu", threads: int | None = None) -> None:
        if device not in _PROVIDERS:
            raise UsageError(f"device: expected one of {', '.join(_PROVIDERS)}, got {device!r}")
        if threads is not None and threads < 1:
            raise UsageError(f"threads: expected 1 or more, got {threads}")
        self._path = path
        self._session: Any = _session(path, device, threads or available_cpus())
        self._dtype = _input_dtype(self._session, path)

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; see ``Backend.run``."""
        feeds = {"images": images.astype(self._dtype, copy=False), "image_sizes": image_sizes}
        session = self._session
        if session is None:
            raise UsageError("the detector is closed", hint="load it again with Detector.load")
        try:
            count, boxes, scores, labels = session.run(list(_OUTPUTS), feeds)
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            batch, _, height, width = images.shape
            raise ArtifactError(
                f"{self._path}: ONNX Runtime failed on {batch} picture(s) on a {height}x{width} canvas: "
                f"{_one_line(error)}",
                hint="give fewer pictures at a time or smaller ones where memory ran out; otherwise report it",
            ) from error
        return NetworkOutput(num_detections=count, boxes=boxes, scores=scores, labels=labels)

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _session(path: Path, device: Device, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    provider = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise MissingDependencyError("onnxruntime-gpu", extra="gpu", why=f"device {device!r}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY  # errors come as exceptions; ours are one line
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_one_line(error)}", hint=_REMAKE) from error
    if session.get_providers()[0] != provider:
        raise ArtifactError(
            f"device {device!r}: ONNX Runtime's {provider} did not start and it fell back to {session.get_providers()}",
            hint="install the CUDA and cuDNN libraries that this onnxruntime-gpu needs, or use device 'cpu'",
        )
    return session


def _input_dtype(session: Any, path: Path) -> type[np.float32] | type[np.float16]:
    """Return the type of ``images``, after checking that the model takes and gives what a detector does."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = tuple(value.name for value in session.get_outputs())
    if set(inputs) != set(_INPUTS) or set(outputs) != set(_OUTPUTS):
        raise ArtifactError(
            f"{path}: expected inputs {_INPUTS} and outputs {_OUTPUTS}, got {tuple(inputs)} and {outputs}", hint=_REMAKE
        )
    kind = inputs["images"].type
    if kind not in _DTYPES:
        raise ArtifactError(f"{path}: expected images as {' or '.join(_DTYPES)}, got {kind}", hint=_REMAKE)
    return _DTYPES[kind]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
