"""Imports of CUDA's Python packages: on first use, with the extra that installs them."""

from __future__ import annotations

from operator import attrgetter
from types import ModuleType
from typing import Any, Final

from frcnn.errors import MissingDependencyError
from frcnn.packages import import_package

_CUDA_CORE: Final = "cuda-core>=1"


def import_nvrtc() -> ModuleType:
    """Return the module ``cuda.bindings.nvrtc`` with the compiler loaded, or raise MissingDependencyError."""
    nvrtc = import_package("cuda.bindings.nvrtc", package="cuda-bindings", extra="cuda", why="compiling CUDA kernels")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # cuda-pathfinder found no library
        raise MissingDependencyError("nvidia-cuda-nvrtc", extra="cuda", why="compiling CUDA kernels") from error
    return nvrtc


def import_driver() -> ModuleType:
    """Return the module ``cuda.bindings.driver``; the driver itself is loaded by its first call."""
    return import_package("cuda.bindings.driver", package="cuda-bindings", extra="cuda", why="launching CUDA kernels")


def import_core_utility(name: str, *, why: str) -> Any:
    """Return ``cuda.core.utils.<name>``; raise MissingDependencyError without cuda-core 1.0 or later."""
    utils = import_package("cuda.core.utils", package=_CUDA_CORE, extra="cuda", why=why)
    try:
        return attrgetter(name)(utils)
    except AttributeError as error:
        raise MissingDependencyError(_CUDA_CORE, extra="cuda", why=why) from error
