"""Slow builders in a bounded time: ``torch.compile`` and NNCF, for ``--compile-limit``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from frcnn.benchmarks.candidates.candidate import CannotRunError

LEFT_OUT: Final = "left out by --compile-limit 0"
_AGAIN_S: Final = 1.0
"""Python drops an exception that comes in a destructor or a callback: torch.compile once went on for 40 s."""


class OutOfTimeError(BaseException):
    """Not an ``Exception``: compilers catch those, and fall back in silence."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Run a block for so many seconds at most; CannotRunError where they were too few or cannot be bounded."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise CannotRunError(f"{what} is tried only where its time can be bounded: in the main thread, not on Windows")

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    except OutOfTimeError as error:
        raise CannotRunError(
            f"{what} had not finished after {seconds:.0f} s; --compile-limit sets how long it may take"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
