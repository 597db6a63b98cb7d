"""The one place where this room imports CUDA's Python packages: on first use, with the extra that brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from frcnn.errors import MissingDependencyError

__all__ = ["import_driver", "import_nvrtc", "import_program_cache"]


def _imported(module: str, *, package: str, why: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(package, extra="cuda", why=why) from error


def import_nvrtc() -> ModuleType:
    """Return the module ``cuda.bindings.nvrtc``, with the compiler's library loaded.

    Raises:
        MissingDependencyError: the bindings or the library are not installed.
    """
    nvrtc = _imported("cuda.bindings.nvrtc", package="cuda-bindings", why="compiling CUDA kernels")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # cuda-pathfinder found no library
        raise MissingDependencyError("nvidia-cuda-nvrtc", extra="cuda", why="compiling CUDA kernels") from error
    return nvrtc


def import_driver() -> ModuleType:
    """Return the module ``cuda.bindings.driver``; the driver itself is looked for when it is first called.

    Raises:
        MissingDependencyError: the bindings are not installed.
    """
    return _imported("cuda.bindings.driver", package="cuda-bindings", why="launching CUDA kernels")


def import_program_cache() -> ModuleType:
    """Return the module ``cuda.core.utils``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return _imported("cuda.core.utils", package="cuda-core", why="keeping compiled kernels")
