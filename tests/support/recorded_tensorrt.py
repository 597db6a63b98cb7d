"""TensorRT-RTX's module with a record of the attributes that are used, to check that TensorRT has them too."""

from __future__ import annotations

import enum
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from support.processes import ROOT, run_python
from support.tensorrt_contract import Contract

_RAW = ("ILogger", "IProgressMonitor")  # base classes
_LOOK_UP = """
missing = [pair for pair in given if not hasattr(getattr(trt, pair[0], None) if pair[0] else trt, pair[1])]
result = [trt.__version__, missing]
"""


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


def missing_in_tensorrt(names: Iterable[tuple[str, str]], contract: Contract) -> tuple[str, set[tuple[str, str]]]:
    """Return TensorRT's release, and the names (class or "", attribute) that it does not have.

    They are looked up in the package ``tensorrt`` where it is installed, whatever its release; elsewhere in NVIDIA's
    bindings, in the process of the contract tests.
    """
    given = sorted(names)
    if importlib.util.find_spec("tensorrt") is None:
        version, missing = contract(_LOOK_UP, given)
    else:
        program = (
            f"import json, sys, tensorrt as trt\ngiven = json.loads(sys.argv[1])\n{_LOOK_UP}\nprint(json.dumps(result))"
        )
        path = os.pathsep.join((str(ROOT / "tests"), *sys.path))
        *_, printed = run_python(program, json.dumps(given), PYTHONPATH=path).splitlines()  # TensorRT logs before it
        version, missing = json.loads(printed)
    return version, {(owner, attribute) for owner, attribute in missing}
