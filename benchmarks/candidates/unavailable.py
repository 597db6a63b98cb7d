"""Why a row has no figure, in one line."""

from __future__ import annotations

from frcnn.errors import FrcnnError

__all__ = ["CannotRunError", "reason_of"]


class CannotRunError(Exception):
    """This system cannot run a row, or the row cannot do what was asked; its text is the reason, one line."""


def reason_of(error: Exception) -> str:
    """Return what an exception says, on one line; of one that was not raised on purpose, its class too."""
    if isinstance(error, FrcnnError):
        return error.message
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, CannotRunError) else f"{type(error).__name__}: {text}"
