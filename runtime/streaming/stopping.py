"""Ctrl-C and SIGTERM as a request to stop after the image in hand."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

__all__ = ["Stop"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_OF_A_SIGNAL: Final = 128
"""What shells add to a signal's number for the exit code of what it ended."""


class Stop:
    """While entered, notes the first of the signals; the second one does what it did before, which is to end at once.

    A signal that is ignored (Ctrl-C of a program that a shell started in the background) stays ignored.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    @property
    def reason(self) -> str:
        """What asked for it, for messages."""
        return "Ctrl-C" if self._signal == signal.SIGINT else "SIGTERM"

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C and 143 for SIGTERM; 0 while neither came."""
        return 0 if self._signal is None else _OF_A_SIGNAL + self._signal

    def __enter__(self) -> Self:
        """Take the signals over; only the main thread can."""
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
