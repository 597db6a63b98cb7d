"""Imports of CUDA's Python packages: on first use, with the extra that installs them."""

from __future__ import annotations

import importlib
from operator import attrgetter
from types import ModuleType
from typing import Any, Final

from frcnn.errors import MissingDependencyError

__all__ = ["import_core_utility", "import_driver", "import_nvrtc"]

_CUDA_CORE: Final = "cuda-core>=1"


def import_nvrtc() -> ModuleType:
    """Return the module ``cuda.bindings.nvrtc`` with the compiler loaded, or raise MissingDependencyError."""
    nvrtc = _imported("cuda.bindings.nvrtc", package="cuda-bindings", why="compiling CUDA kernels")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # cuda-pathfinder found no library
        raise MissingDependencyError("nvidia-cuda-nvrtc", extra="cuda", why="compiling CUDA kernels") from error
    return nvrtc


def import_driver() -> ModuleType:
    """Return the module ``cuda.bindings.driver``; the driver itself is loaded by its first call."""
    return _imported("cuda.bindings.driver", package="cuda-bindings", why="launching CUDA kernels")


def import_core_utility(name: str, *, why: str) -> Any:
    """Return ``cuda.core.utils.<name>``; raise MissingDependencyError without cuda-core 1.0 or later."""
    utils = _imported("cuda.core.utils", package=_CUDA_CORE, why=why)
    try:
        return attrgetter(name)(utils)
    except AttributeError as error:
        raise MissingDependencyError(_CUDA_CORE, extra="cuda", why=why) from error


def _imported(module: str, *, package: str, why: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(package, extra="cuda", why=why) from error
