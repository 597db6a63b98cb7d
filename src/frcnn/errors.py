"""Every error that a user of frcnn can meet.

A message says what is wrong, what was expected and what was found; ``hint`` says how to fix it.
The command prints ``error: <message>`` and ``hint: <hint>`` and exits with 2. What a message quotes may come from a
hostile file, so every message and hint is made one line of printable text of bounded length, without passwords.
"""

from __future__ import annotations

import copyreg
import difflib
import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "ArtifactError",
    "CheckpointError",
    "ExportError",
    "FrcnnError",
    "ImageError",
    "ImageSizeError",
    "KernelError",
    "MissingDependencyError",
    "OutputError",
    "UnsupportedModelError",
    "UsageError",
    "did_you_mean",
    "one_line",
    "printable",
    "without_credentials",
]

_LONGEST_TEXT: Final = 2000
_LONGEST_QUOTE: Final = 300
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")  # as libraries put into messages that are quoted
_LOGIN: Final = re.compile(r"(?<=://)(?:[^/\s]*|[^/@\s:]*:(?!\d+/)\S*)@")  # the second where a password has a slash
_SECRET: Final = re.compile(
    r"(?i)([?&][^=&\s]*(?:user|usr|login|pass|pwd|token|key|auth|secret|sig|cred)[^=&\s]*=)(?!\*\*\*)[^&#\s]+"
)


def printable(text: str) -> str:
    """Return text with everything that would steer a terminal, or break the line, shown as an escape."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def without_credentials(text: str) -> str:
    """Return text in which addresses have neither user nor password, nor what looks like one among their parameters."""
    return _SECRET.sub(r"\1***", _LOGIN.sub("***@", text)) if "://" in text else text


def one_line(error: BaseException) -> str:
    """Return what an exception of a library says, on one short line; its class where it says nothing."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:_LONGEST_QUOTE] or type(error).__name__


def did_you_mean(wanted: object, known: Iterable[object], otherwise: str = "") -> str:
    """Return a hint that names what of ``known`` is spelt most like ``wanted``; ``otherwise`` where nothing is."""
    names = {str(name).casefold(): str(name) for name in known}
    close = difflib.get_close_matches(str(wanted).casefold(), names, n=1, cutoff=0.75)  # train is not triton
    return f"did you mean {names[close[0]]}?" if close else otherwise


class FrcnnError(Exception):
    """Base of all errors raised on purpose.

    Its ``message`` and ``hint`` are one line each; the hint is empty where there is nothing to add.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = _line(message)
        self.hint = _line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Come out of another process whole: a pool waits for ever for an error that cannot be unpickled."""
        return copyreg.__newobj__, (type(self), self.message), self.__dict__  # type: ignore[attr-defined]


class UsageError(FrcnnError):
    """An option or argument that makes no sense."""


class MissingDependencyError(FrcnnError, ImportError):
    """A package that an extra of frcnn brings is not installed, or has a ``problem`` there."""

    def __init__(self, package: str, *, extra: str, why: str, problem: str = "", hint: str = "") -> None:
        again = "--force-reinstall " if problem else ""
        super().__init__(
            f"{why} needs the package {package!r}, which {problem or 'is not installed'}",
            hint=hint or f"pip install {again}'frcnn[{extra}]'",
        )
        self.package = package
        self.extra = extra


class CheckpointError(FrcnnError):
    """A checkpoint that cannot be read or does not fit the architecture."""


class UnsupportedModelError(FrcnnError):
    """A model with a part that has no deployable form."""


class ExportError(FrcnnError):
    """The exporter failed on a supported model."""


class KernelError(FrcnnError):
    """A CUDA kernel that cannot be compiled, or attributes, shapes and arrays that a kernel cannot take."""


class ArtifactError(FrcnnError):
    """A model file that is not ours, is broken, or does not fit this system."""


class ImageError(FrcnnError):
    """An image that cannot be used."""


class ImageSizeError(ImageError):
    """An image that fits no canvas of the model, or passes the pixel limit."""


class OutputError(FrcnnError):
    """A result that cannot be written."""


def _line(text: str) -> str:
    line = printable(without_credentials(_COLOUR.sub("", text)))
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]} ..."
