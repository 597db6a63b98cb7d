"""Forks: what owns threads, or a GPU's memory, belongs to the process that made it.

A forked process has none of the threads. What it inherited it must neither use nor destroy: ONNX Runtime and OpenVINO
would wait for their threads for ever, or crash, and CUDA would fail.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Final
from weakref import WeakSet

from frcnn.errors import UsageError

_KEPT: Final = WeakSet[object]()


def keep_in_forks(owner: object) -> int:
    """Have no forked process destroy an object and what it refers to; return the id of this process."""
    _KEPT.add(owner)
    return os.getpid()


def forked_error(what: str = "the detector", left: str = "its threads") -> UsageError:
    """Return the error of a call on what a forked process inherited."""
    return UsageError(
        f"{what} was made before this process was forked off, and {left} stayed behind",
        hint="make it in each process, or start them by multiprocessing.get_context('spawn')",
    )


def fork_safe_lock() -> threading.RLock:
    """Return a lock that no thread holds during a fork: a forked process would wait for that thread for ever."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def _keep_all() -> None:
    for owner in list(_KEPT):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)
