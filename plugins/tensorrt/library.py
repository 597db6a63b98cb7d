"""The one place where TensorRT is imported."""

from __future__ import annotations

import importlib
from types import ModuleType

from frcnn.errors import MissingDependencyError

__all__ = ["load_tensorrt"]


def load_tensorrt() -> tuple[ModuleType, ModuleType]:
    """Return the modules ``tensorrt`` and ``tensorrt.plugin``.

    Raises:
        MissingDependencyError: TensorRT is not installed, or is older than ahead-of-time plugins.
    """
    try:
        trt, trtp = importlib.import_module("tensorrt"), importlib.import_module("tensorrt.plugin")
    except ImportError as error:
        raise MissingDependencyError("tensorrt", extra="tensorrt", why="building a TensorRT engine") from error
    if not hasattr(trtp, "aot_impl"):
        raise MissingDependencyError("tensorrt>=10.13", extra="tensorrt", why="building a TensorRT engine")
    return trt, trtp
