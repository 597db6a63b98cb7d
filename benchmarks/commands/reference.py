"""What ``compare`` and ``eval`` share: a model file beside its checkpoint, which eager torchvision runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from frcnn.errors import ArtifactError

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.artifacts import AnyManifest
    from frcnn.spec import ModelSpec

__all__ = ["device_of", "load_options", "require_same_model"]


def require_same_model(spec: ModelSpec, manifest: AnyManifest, arguments: argparse.Namespace) -> None:
    """Require that a checkpoint's model is that of the file: else a difference means nothing.

    Args:
        spec: the checkpoint's.
        manifest: the file's.
        arguments: with the file's path as ``model``.

    Raises:
        ArtifactError: the first difference of the models.
    """
    from frcnn.benchmarks.candidates.artifacts import model_difference

    if difference := model_difference(spec, manifest):
        raise ArtifactError(
            f"{arguments.model} is another model than the checkpoint: {difference}",
            hint=f"give {arguments.command.split()[1]} the same --arch and --arg as export",
        )


def device_of(arguments: argparse.Namespace, manifest: AnyManifest) -> str | None:
    """Return the device to run the file on; None: that of ``--provider``."""
    from frcnn.benchmarks.candidates.artifacts import device_for

    if arguments.device is None and arguments.provider is None:
        return device_for(manifest)
    device: str | None = arguments.device
    return device


def load_options(arguments: argparse.Namespace, manifest: AnyManifest) -> dict[str, Any]:
    """Return the options of ``Detector.load``; ``--threads`` is eager's alone where the file holds engines."""
    from frcnn.spec.engine import EngineManifest

    options = {"device": device_of(arguments, manifest), "provider": arguments.provider}
    return options if isinstance(manifest, EngineManifest) else options | {"threads": arguments.threads}
