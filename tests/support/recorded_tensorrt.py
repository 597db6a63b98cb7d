"""TensorRT-RTX's module behind a recorder of what is asked of it, to hold TensorRT's own bindings to the same."""

from __future__ import annotations

import enum
import importlib
from types import ModuleType
from typing import Any

__all__ = ["record_tensorrt_rtx"]

_RAW = ("ILogger", "IProgressMonitor")  # classes that are derived from


def record_tensorrt_rtx() -> tuple[Any, set[tuple[str, str]]]:
    """Return the module behind a recorder, and the set that it fills: (class or "", attribute)."""
    asked: set[tuple[str, str]] = set()
    return _Recorder(importlib.import_module("tensorrt_rtx"), "", asked), asked


class _Recorder:
    """Notes the attributes that are there, and passes all else on."""

    def __init__(self, real: Any, name: str, asked: set[tuple[str, str]]) -> None:
        object.__setattr__(self, "_given", (real, name, asked))

    def __getattr__(self, attribute: str) -> Any:
        real, name, asked = self._given
        value = getattr(real, attribute)
        asked.add((name, attribute))
        return value if attribute in _RAW else _wrap(value, name, attribute, asked)

    def __setattr__(self, attribute: str, value: Any) -> None:
        real, name, asked = self._given
        asked.add((name, attribute))
        setattr(real, attribute, _unwrap(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        real, name, asked = self._given
        result = real(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})
        return _wrap(result, name, "", asked)


def _wrap(value: Any, owner: str, attribute: str, asked: set[tuple[str, str]]) -> Any:
    if isinstance(value, ModuleType):
        return value
    if isinstance(value, type):
        return _Recorder(value, value.__name__, asked)
    kind = type(value)
    is_ours = kind.__module__.startswith("tensorrt_rtx") and not isinstance(value, enum.Enum)
    is_enum = hasattr(kind, "__members__")
    if is_ours and not is_enum and kind.__name__ not in ("Dims", "IHostMemory"):
        return _Recorder(value, kind.__name__, asked)
    if callable(value) and not is_enum and attribute:
        return _Recorder(value, owner, asked)
    return value


def _unwrap(value: Any) -> Any:
    return value._given[0] if isinstance(value, _Recorder) else value
