"""Every error that a user of frcnn can meet.

FrcnnError
├── UsageError              an option or argument that makes no sense
├── MissingDependencyError  a package of an extra is not installed (also an ImportError)
├── CheckpointError         a checkpoint that cannot be read or does not fit the architecture
├── UnsupportedModelError   a model with a part that has no deployable form
├── ExportError             the exporter failed on a supported model
├── KernelError             a CUDA kernel that cannot be compiled, or shapes and arrays that one cannot take
├── ArtifactError           a model file that is not ours, is broken, or does not fit this machine
├── ImageError              a picture that cannot be used
│   └── ImageSizeError      a picture that fits no canvas of the model, or passes the pixel limit
└── OutputError             a result that cannot be written

A message says what is wrong, what was expected and what was found; ``hint`` says how to fix it.
The command prints ``error: <message>`` and ``hint: <hint>`` and exits with 2.
"""

from __future__ import annotations

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
]


class FrcnnError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what is wrong, expected and found, on one line.
        hint: how to fix it, on one line; empty where there is nothing to add.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(FrcnnError):
    """An option or argument that makes no sense."""


class MissingDependencyError(FrcnnError, ImportError):
    """A package that an extra of frcnn brings is not installed."""

    def __init__(self, package: str, *, extra: str, why: str) -> None:
        super().__init__(
            f"{why} needs the package {package!r}, which is not installed",
            hint=f"pip install 'frcnn[{extra}]'",
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
    """A model file that is not ours, is broken, or does not fit this machine."""


class ImageError(FrcnnError):
    """A picture that cannot be used."""


class ImageSizeError(ImageError):
    """A picture that fits no canvas of the model, or passes the pixel limit."""


class OutputError(FrcnnError):
    """A result that cannot be written."""
