"""The one place where the runtime imports heavy or optional packages.

``import frcnn.runtime`` touches none of them: each accessor imports its package on first use and, where the package
is missing, says which extra of frcnn brings it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from frcnn.errors import MissingDependencyError

__all__ = ["import_onnx", "import_onnxruntime", "import_opencv", "import_supervision"]


def _imported(module: str, *, package: str, extra: str, why: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        reason = "" if absent else f" ({' '.join(str(error).split())})"
        raise MissingDependencyError(package, extra=extra, why=why + reason) from error


def import_onnxruntime() -> ModuleType:
    """Return the module ``onnxruntime``.

    Raises:
        MissingDependencyError: it is not installed or does not load.
    """
    return _imported("onnxruntime", package="onnxruntime", extra="cpu", why="running model.onnx")


def import_opencv() -> ModuleType:
    """Return the module ``cv2``.

    Raises:
        MissingDependencyError: it is not installed or does not load.
    """
    return _imported("cv2", package="opencv-python-headless", extra="cpu", why="reading and writing videos")


def import_onnx() -> ModuleType:
    """Return the module ``onnx``.

    Raises:
        MissingDependencyError: it is not installed or does not load.
    """
    return _imported("onnx", package="onnx", extra="cpu", why="listing a model's operators")


def import_supervision() -> ModuleType:
    """Return the module ``supervision``.

    Raises:
        MissingDependencyError: it is not installed or does not load.
    """
    return _imported("supervision", package="supervision", extra="bench", why="Detections.to_supervision()")
