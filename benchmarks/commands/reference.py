"""What ``compare`` and ``eval`` share: a model file beside its checkpoint, which eager torchvision runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from frcnn.benchmarks.candidates.artifacts import AnyManifest, device_for, model_difference
from frcnn.errors import ArtifactError
from frcnn.runtime.tuned import Tuned
from frcnn.runtime.tuned import load_options as setting_options
from frcnn.spec.engine import EngineManifest

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.load import LoadedCheckpoint


def prepare_reference(loaded: LoadedCheckpoint, manifest: AnyManifest, arguments: argparse.Namespace) -> None:
    """Require that the checkpoint's model is that of the file, and give eager ``--threads``.

    Raises:
        ArtifactError: the first difference of the models, with which a comparison would mean nothing.
    """
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    if difference := model_difference(loaded.spec, manifest):
        raise ArtifactError(
            f"{arguments.model} is another model than the checkpoint: {difference}",
            hint=f"give {arguments.command.split()[1]} the same --arch and --arg as export",
        )


def load_options(arguments: argparse.Namespace, manifest: AnyManifest, tuned: Tuned | None) -> dict[str, Any]:
    """Return the options of ``Detector.load``: that of ``device`` is None where ``--provider`` decides it.

    ``--threads`` is eager's alone where the file holds engines. A tuned choice stands for all options.
    """
    if tuned is not None:
        return {"device": "cpu", **setting_options(tuned.setting)}
    options = {"device": arguments.device, "provider": arguments.provider}
    if options == {"device": None, "provider": None}:
        options["device"] = device_for(manifest)
    options["precision"] = arguments.precision
    return options if isinstance(manifest, EngineManifest) else options | {"threads": arguments.threads}
