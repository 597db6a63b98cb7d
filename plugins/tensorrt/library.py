"""Imports of TensorRT."""

from __future__ import annotations

import importlib
from types import ModuleType

from frcnn.errors import MissingDependencyError

__all__ = ["load_tensorrt", "load_tensorrt_plugins"]


def load_tensorrt() -> ModuleType:
    """Return the module ``tensorrt``, or raise MissingDependencyError."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise MissingDependencyError("tensorrt", extra="tensorrt", why="building a TensorRT engine") from error


def load_tensorrt_plugins() -> ModuleType | None:
    """Return the module ``tensorrt.plugin``; None where TensorRT is older than 10.13, without ahead-of-time plugins."""
    load_tensorrt()
    try:
        trtp = importlib.import_module("tensorrt.plugin")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt.plugin":
            return None
        raise MissingDependencyError("tensorrt", extra="tensorrt", why=f"plugins of TensorRT ({error})") from error
    return trtp if hasattr(trtp, "aot_impl") else None
