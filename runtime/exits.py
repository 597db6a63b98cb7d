"""The end of the interpreter: no daemon thread may be in a native library then.

Where such a thread wants Python's lock back, Python up to 3.13 unwinds it (``pthread_exit``); C++ that forbids this, as
pybind11's and OpenCV's destructors do, aborts the process.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from frcnn.runtime.forks import fork_safe_lock

_EXIT_SECONDS: Final = 30.0
_ENTERING: Final = fork_safe_lock()
_INSIDE: Final[set[object]] = set()


@contextmanager
def finished_before_exit() -> Iterator[None]:
    """Have the interpreter's end wait for a block or a function, at most 30 s; who comes later waits for ever.

    For calls that compute. A file or a pipe that is read in it, and does not come, would hold up the end.
    """
    call = object()
    try:
        with _ENTERING:
            _INSIDE.add(call)
        yield
    finally:
        _INSIDE.discard(call)


def at_exit(callback: Callable[[], None]) -> Callable[[], None]:
    """Register what is called at the interpreter's end, before threads are kept waiting: ``atexit`` goes backwards."""
    return atexit.register(callback)


@atexit.register
def _let_calls_end() -> None:
    _ENTERING.acquire()  # and never released
    end = time.monotonic() + _EXIT_SECONDS
    while _INSIDE and time.monotonic() < end:
        time.sleep(0.001)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_INSIDE.clear)
