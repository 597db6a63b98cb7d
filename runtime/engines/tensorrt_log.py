"""The errors that TensorRT logs, kept to explain a failure.

TensorRT returns None or False and passes the reasons to a logger, which must outlive all objects made with it; so there
is one per library and process. Messages of different threads are kept apart.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from frcnn.runtime.dependencies import import_tensorrt
from frcnn.spec.engine import Target

__all__ = ["FailureLog", "failure_log"]

_MAX_MESSAGES: Final = 32
_MAX_CHARACTERS: Final = 400
_PLACE: Final = re.compile(r"\[\w+\.\w+::\w+::\d+\]\s*|\bIn \w+ at \S+:\d+\s*")  # where in TensorRT's own source
_CODE: Final = re.compile(r"\bError Code \d+: ")


class FailureLog:
    """The errors of one TensorRT, which gets ``logger``."""

    def __init__(self, trt: Any) -> None:
        self._own = threading.local()  # of threads that called ``clear``
        self._of_others: deque[str] = deque(maxlen=_MAX_MESSAGES)  # of TensorRT's own threads
        self.logger = _logger_class(trt)(self._keep)

    def clear(self) -> None:
        """Forget the messages of this thread."""
        self._own.messages = deque(maxlen=_MAX_MESSAGES)

    def reason(self) -> str:
        """Return the messages since this thread's ``clear`` on one line, the first one first, and forget them."""
        found: list[str] = []
        for messages in (getattr(self._own, "messages", ()), self._of_others):
            while messages:
                found.append(messages.popleft())
        line = "; ".join(dict.fromkeys(filter(None, map(_plain, found))))
        if len(line) > _MAX_CHARACTERS:
            line = line[: _MAX_CHARACTERS - 3] + "..."
        return line or "TensorRT gives no reason"

    def _keep(self, message: str) -> None:
        getattr(self._own, "messages", self._of_others).append(message)


def _logger_class(trt: Any) -> Any:
    """Return a class of loggers that pass errors to a function, which must not raise: TensorRT calls it."""
    errors = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc] # TensorRT has no type information
        def __init__(self, keep: Callable[[str], None]) -> None:
            trt.ILogger.__init__(self)
            self._keep = keep

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self._keep(message)

    return Logger


def _plain(message: str) -> str:
    """Return a message without the place in TensorRT's own source."""
    return " ".join(_CODE.sub("", _PLACE.sub("", message)).split())


@cache
def failure_log(target: Target) -> FailureLog:
    """Return the log of a TensorRT, one per process."""
    return FailureLog(import_tensorrt(target))
