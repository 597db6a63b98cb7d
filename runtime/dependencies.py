"""The one place where the runtime imports heavy or optional packages.

``import frcnn.runtime`` imports none of them. Each accessor imports its package on first use and raises
``MissingDependencyError``, which names the extra of frcnn that installs it, where it is missing or does not load.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, Literal

from frcnn.errors import MissingDependencyError
from frcnn.packages import import_package
from frcnn.plugins.tensorrt.library import refuse_mixed_releases
from frcnn.processors import available_cpus
from frcnn.runtime.forks import uninterrupted_by_forks
from frcnn.spec.engine import Target

TensorRTLibrary = Target | Literal["tensorrt-lean"]
"""A target's own library, or TensorRT's lean runtime, which also runs version compatible plans of ``tensorrt``."""

_TENSORRT: Final[Mapping[TensorRTLibrary, tuple[str, str, str]]] = {
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx-cu13", "rtx"),
    "tensorrt": ("tensorrt", "tensorrt", "tensorrt"),
    "tensorrt-lean": ("tensorrt_lean", "tensorrt-lean-cu13", "tensorrt-lean"),
}
"""Library -> module, package, extra."""

_STACK_T: Final = 24
"""Bytes of Linux's ``stack_t``."""


def import_onnxruntime() -> ModuleType:
    """Return the module ``onnxruntime``."""
    return import_package("onnxruntime", package="onnxruntime", extra="cpu", why="running model.onnx")


def import_onnxruntime_gpu() -> ModuleType:
    """Return the module ``onnxruntime``, which has the CUDA provider."""
    what = {"package": "onnxruntime-gpu", "extra": "onnxruntime", "why": "running an onnxruntime artifact"}
    module = import_package("onnxruntime", **what)
    providers = module.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        what["why"] += f" (onnxruntime {module.__version__} here has {', '.join(providers)}: uninstall it first)"
        raise MissingDependencyError(**what)
    return module


def import_opencv() -> ModuleType:
    """Return the module ``cv2``, on no more threads than this process has processors."""
    cv2 = import_package("cv2", package="opencv-python-headless", extra="cpu", why="reading and writing videos")
    if cv2.getNumThreads() > (share := available_cpus()):
        cv2.setNumThreads(share)
    return cv2


def import_pillow_heif() -> ModuleType:
    """Return the module ``pillow_heif``."""
    return import_package("pillow_heif", package="pillow-heif", extra="heif", why="reading HEIC images")


def import_onnx() -> ModuleType:
    """Return the module ``onnx``."""
    return import_package("onnx", package="onnx", extra="cpu", why="reading a model's graph")


def import_openvino() -> ModuleType:
    """Return the module ``openvino``.

    Importing it tells its maker so over the internet, by a process of its own, and writes into the user's home, unless
    its package ``openvino_telemetry`` is missing. So it is, for the time of the import.
    """
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as the import system means it
    try:
        return import_package("openvino", package="openvino", extra="openvino", why="provider 'openvino'")
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]


@contextmanager
def openvino_core() -> Iterator[Any]:
    """Give an ``openvino.Core`` for a block, which leaves the thread's stack for signals as it was.

    On Linux a Core that is used has its thread handle signals on a stack that goes with the Core. Of two Cores that go,
    the older first, the newer puts back the stack of the older: the next Ctrl-C is a segmentation fault (2026.4). Nor
    is one Core for all models safe: after a run that failed the next model can crash. Forks wait for the block.
    """
    if sys.platform != "linux":
        with uninterrupted_by_forks():
            yield import_openvino().Core()
        return
    libc, stack = ctypes.CDLL(None), ctypes.create_string_buffer(_STACK_T)
    libc.sigaltstack(None, stack)
    try:
        with uninterrupted_by_forks():
            yield import_openvino().Core()
    finally:
        libc.sigaltstack(stack, None)


def import_pandas() -> ModuleType:
    """Return the module ``pandas``."""
    return import_package("pandas", package="pandas", extra="pandas", why="Detections.to_dataframe()")


def import_pyarrow(module: str = "pyarrow") -> ModuleType:
    """Return the module ``pyarrow``, or one inside it; it comes with ``ray[data]``."""
    return import_package(module, package="ray", extra="ray", why="reading and writing Parquet")


def import_ray(module: str = "ray") -> ModuleType:
    """Return the module ``ray``, or one inside it."""
    return import_package(module, package="ray", extra="ray", why="detecting on a Ray cluster")


def import_supervision() -> ModuleType:
    """Return the module ``supervision``."""
    return import_package("supervision", package="supervision", extra="supervision", why="Detections.to_supervision()")


def import_tensorrt(library: TensorRTLibrary) -> ModuleType:
    """Return the module ``tensorrt_rtx``, ``tensorrt`` or ``tensorrt_lean``, which share one interface."""
    module, package, extra = _TENSORRT[library]
    why = f"running a {'version compatible tensorrt' if library == 'tensorrt-lean' else library} artifact"
    trt = import_package(module, package=package, extra=extra, why=why)
    if library == "tensorrt":
        refuse_mixed_releases(trt, why=why)
    return trt
