"""The one place where this room imports CUDA's Python packages: on first use, with the extra that brings them."""

from __future__ import annotations

import importlib
from operator import attrgetter
from types import ModuleType
from typing import Any, Final

from frcnn.errors import MissingDependencyError

__all__ = ["import_dlpack_reader", "import_driver", "import_nvrtc", "import_program_cache"]

_CUDA_CORE: Final = "cuda-core>=1"


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


def import_program_cache() -> Any:
    """Return the class ``cuda.core.utils.FileStreamProgramCache``.

    Raises:
        MissingDependencyError: cuda-core is not installed, or is older than 1.0.
    """
    return _core_utility("FileStreamProgramCache", why="keeping compiled kernels")


def import_dlpack_reader() -> Any:
    """Return the function ``cuda.core.utils.StridedMemoryView.from_dlpack``.

    Raises:
        MissingDependencyError: cuda-core is not installed, or is older than 1.0.
    """
    return _core_utility("StridedMemoryView.from_dlpack", why="reading arrays by DLPack")


def _core_utility(name: str, *, why: str) -> Any:
    utils = _imported("cuda.core.utils", package=_CUDA_CORE, why=why)
    try:
        return attrgetter(name)(utils)
    except AttributeError as error:
        raise MissingDependencyError(_CUDA_CORE, extra="cuda", why=why) from error
