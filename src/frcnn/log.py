"""Remarks: what a user should know although the work goes on.

They go to the logger ``frcnn``. Where a program has not set up logging, Python shows them on standard error; the
command shows each as one line. Unlike a warning, a remark is an exception under no option, so it never takes the place
of the error that matters.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

from frcnn.errors import printable

__all__ = ["LOGGER", "remark"]

LOGGER: Final = logging.getLogger("frcnn")


@cache
def warn_once(text: str) -> None:
    """Log a text, the first time in this process that it is given; ``warn_once.cache_clear()`` forgets all."""
    LOGGER.warning("frcnn: %s", printable(text))
