"""Forks: what owns threads, or a GPU's memory, belongs to the process that made it.

A forked process has none of the threads. What it inherited it must neither use nor destroy: ONNX Runtime and OpenVINO
would wait for their threads for ever, or crash, and CUDA would fail. It may load its own. OpenVINO's TBB has locks for
all of a process, though: one that a thread holds during a fork, the forked process waits for for ever.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

from frcnn.errors import UsageError

_KEPT: Final = WeakSet[object]()
_ENTERING: Final = threading.RLock()
_INSIDE: Final[list[int]] = []
"""Threads that no fork may interrupt."""
_USED: Final = threading.Event()
_TASKS: Final = Path("/proc/self/task")
_QUIET_SECONDS: Final = 0.5


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


@contextmanager
def uninterrupted_by_forks() -> Iterator[None]:
    """Have forks in other threads wait for a block, and then for the threads of libraries to sleep.

    The block must take no lock of :func:`fork_safe_lock`.
    """
    me = threading.get_ident()
    if me in _INSIDE:
        yield
        return
    try:
        with _ENTERING:
            _INSIDE.append(me)
            _USED.set()
        yield
    finally:
        with suppress(ValueError):  # Ctrl-C came before
            _INSIDE.remove(me)


def _before_fork() -> None:
    _ENTERING.acquire()
    me = threading.get_ident()  # a handler of a signal may fork within a block
    while any(inside != me for inside in _INSIDE):
        time.sleep(0.001)
    end, quiet = time.monotonic() + _QUIET_SECONDS, 0
    while _USED.is_set() and quiet < 2 and time.monotonic() < end:  # twice: one that ends may have woken another
        quiet = 0 if _library_threads_run() else quiet + 1
        time.sleep(0.001)


def _library_threads_run() -> bool:
    """Return whether a thread runs that is not Python's; on Linux only."""
    pythons = {str(thread.native_id) for thread in threading.enumerate()}
    for task in _TASKS.glob("*/stat"):
        if task.parent.name not in pythons:
            with suppress(OSError):  # it ended
                if task.read_text().rpartition(")")[2].split()[0] in "RD":
                    return True
    return False


def _after_fork_in_child() -> None:
    for owner in list(_KEPT):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
    me = threading.get_ident()
    _INSIDE[:] = [inside for inside in _INSIDE if inside == me]
    _ENTERING.release()


if hasattr(os, "register_at_fork"):  # before all locks above: their order at a fork is the reverse
    os.register_at_fork(before=_before_fork, after_in_parent=_ENTERING.release, after_in_child=_after_fork_in_child)
