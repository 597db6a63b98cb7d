"""Imports of TensorRT, and what its installation tells of itself."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
from types import ModuleType
from typing import Final

from frcnn.errors import MissingDependencyError
from frcnn.packages import import_package, installed_version

_BUILDING: Final = "building a TensorRT engine"
_CUDA_RELEASES: Final = range(11, 20)
_RELEASE: Final = re.compile(r"(\d+)\.\d+\.\d+")
_MIXED: Final = (
    "bindings and libraries must be of one release: LD_LIBRARY_PATH may name a folder with another TensorRT; "
    "pip install --force-reinstall 'frcnn[tensorrt]'"
)


def load_tensorrt() -> ModuleType:
    """Return the module ``tensorrt``, or raise MissingDependencyError."""
    return import_package("tensorrt", package="tensorrt", extra="tensorrt", why=_BUILDING, broken_hint=_MIXED)


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


def refuse_mixed_releases(trt: ModuleType, *, why: str = _BUILDING) -> None:
    """Raise MissingDependencyError if TensorRT's library is of another release than its Python bindings.

    They fit together well enough to be imported, as the library is found by its major version only.
    """
    version = _RELEASE.match(trt.__version__)
    found = _library_release(f"libnvinfer.so.{version[1]}") if version else ""
    if version and found and found != version[0]:
        problem = f"has Python bindings of release {version[0]} and libraries of release {found}"
        raise MissingDependencyError("tensorrt", extra="tensorrt", why=why, problem=problem, hint=_MIXED)


def never_free(made: object) -> None:
    """Keep an object of TensorRT as long as the process, which freeing one that holds nothing would end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


def cuda_major() -> int | None:
    """Return the CUDA release that the installed TensorRT is for, as its packages' names tell; None if none does."""
    found = {major for major in _CUDA_RELEASES if installed_version(f"tensorrt_cu{major}_bindings")}
    return found.pop() if len(found) == 1 else None


def _library_release(name: str) -> str:
    """Return the release of a library that is loaded; nothing if none of that name is, or it does not tell."""
    try:
        number = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW).getInferLibVersion()
    except (OSError, AttributeError):  # AttributeError: not on this system, or not in this library
        return ""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
