"""The logger ``frcnn``: what a user should know although the work goes on.

Where a program has not set up logging, Python shows it on standard error; the command shows each as one line. Unlike
``warnings.warn``, it is an exception under no option, so it never takes the place of the error that matters.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

from frcnn.errors import printable

LOGGER: Final = logging.getLogger("frcnn")


@cache
def warn_once(text: str) -> None:
    """Log a warning, the first time that this process gives it; ``warn_once.cache_clear()`` forgets all."""
    LOGGER.warning("frcnn: %s", printable(text))
