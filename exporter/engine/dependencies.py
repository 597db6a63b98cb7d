"""The one place where this room imports TensorRT: on first use, with the extra that brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from frcnn.errors import MissingDependencyError
from frcnn.plugins.tensorrt.library import load_tensorrt
from frcnn.spec.engine import Target

__all__ = ["import_builder"]


def import_builder(target: Target) -> ModuleType:
    """Return the module that builds engines for a target: ``tensorrt_rtx`` or ``tensorrt``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if target == "tensorrt":
        return load_tensorrt()
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError as error:
        raise MissingDependencyError(
            "tensorrt-rtx-cu13", extra="rtx", why="building an engine for TensorRT-RTX"
        ) from error
