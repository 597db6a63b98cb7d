"""TensorRT-RTX's module with a record of the attributes that are used, to check that TensorRT has them too."""

from __future__ import annotations

import enum
import importlib
from types import ModuleType
from typing import Any

_RAW = ("ILogger", "IProgressMonitor")  # base classes


def record_tensorrt_rtx() -> tuple[Any, set[tuple[str, str]]]:
    """Return the module behind a recorder, and the set that it fills: (class or "", attribute)."""
    used: set[tuple[str, str]] = set()
    return _Recorder(importlib.import_module("tensorrt_rtx"), "", used), used


class _Recorder:
    """Records the attributes that exist, and forwards everything."""

    def __init__(self, real: Any, name: str, used: set[tuple[str, str]]) -> None:
        object.__setattr__(self, "_given", (real, name, used))

    def __getattr__(self, attribute: str) -> Any:
        real, name, used = self._given
        value = getattr(real, attribute)
        used.add((name, attribute))
        return value if attribute in _RAW else _wrap(value, name, attribute, used)

    def __setattr__(self, attribute: str, value: Any) -> None:
        real, name, used = self._given
        used.add((name, attribute))
        setattr(real, attribute, _unwrap(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        real, name, used = self._given
        result = real(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})
        return _wrap(result, name, "", used)


def _wrap(value: Any, owner: str, attribute: str, used: set[tuple[str, str]]) -> Any:
    if isinstance(value, ModuleType):
        return value
    if isinstance(value, type):
        return _Recorder(value, value.__name__, used)
    kind = type(value)
    is_ours = kind.__module__.startswith("tensorrt_rtx") and not isinstance(value, enum.Enum)
    is_enum = hasattr(kind, "__members__")
    if is_ours and not is_enum and kind.__name__ not in ("Dims", "IHostMemory"):
        return _Recorder(value, kind.__name__, used)
    if callable(value) and not is_enum and attribute:
        return _Recorder(value, owner, used)
    return value


def _unwrap(value: Any) -> Any:
    return value._given[0] if isinstance(value, _Recorder) else value
