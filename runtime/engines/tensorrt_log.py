"""What TensorRT logs, kept to explain a failure.

TensorRT's logger must outlive all objects made with it; so there is one per library and process. Messages of different
threads are kept apart.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from frcnn.plugins.tensorrt.messages import Explanation, LoggedLines, explain, make_logger
from frcnn.runtime.dependencies import TensorRTLibrary, import_tensorrt


class FailureLog:
    """The errors and warnings of one TensorRT, which gets ``logger``."""

    def __init__(self, trt: Any) -> None:
        self._own = threading.local()  # of threads that called ``clear``
        self._of_others = LoggedLines()  # of TensorRT's own threads
        self.logger = make_logger(trt, self._keep)

    def clear(self) -> None:
        """Forget the messages of this thread."""
        self._own.lines = LoggedLines()

    @property
    def has_errors(self) -> bool:
        """Whether an error was logged on this thread since its :meth:`clear`."""
        return bool(getattr(self._own, "lines", self._of_others).errors)

    def explain(self) -> Explanation:
        """Return why TensorRT failed since this thread's :meth:`clear`, and forget the messages."""
        errors: list[str] = []
        warnings: list[str] = []
        for lines in (getattr(self._own, "lines", LoggedLines()), self._of_others):
            errors.extend(lines.take("errors"))
            warnings.extend(lines.take("warnings"))
        return explain(errors, warnings)

    def _keep(self, severity: str, message: str) -> None:
        getattr(self._own, "lines", self._of_others).keep(severity, message)


@cache
def failure_log(library: TensorRTLibrary) -> FailureLog:
    """Return the log of a TensorRT, one per process."""
    return FailureLog(import_tensorrt(library))
