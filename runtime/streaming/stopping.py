"""Ctrl-C and SIGTERM as a request to stop after the current image."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_OF_A_SIGNAL: Final = 128
"""Shells add this to a signal's number for the exit code of the program that it ended."""


class Stop:
    """While entered, records the first signal; a second one has its former effect, which is to end at once.

    An ignored signal (Ctrl-C of a program that a shell started in the background) stays ignored.
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
        """The name of the signal for messages."""
        return "Ctrl-C" if self._signal == signal.SIGINT else "SIGTERM"

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, 0 without a signal."""
        return 0 if self._signal is None else _OF_A_SIGNAL + self._signal

    def __enter__(self) -> Self:
        """Take the signals over; only the main thread can."""
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        self._give_back()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
