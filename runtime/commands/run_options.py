"""The options of every verb that runs a model: where it runs, by what, in which precision, on how many threads."""

from __future__ import annotations

import argparse

from frcnn.console import note
from frcnn.options import Group, add_number
from frcnn.runtime.host.providers import PROVIDERS
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.tuned import Tuned, read_tuned
from frcnn.spec.tuning import ARITHMETIC

_HOW_TO_RUN = ("device", "precision", "threads")


def add_run_options(group: Group, *, device: str, threads: str) -> None:
    """Add ``--device``, ``--provider``, ``--precision`` and ``--threads``."""
    group.add_argument("--device", choices=("cpu", "cuda"), help=device)
    text = (
        "what runs model.onnx: ONNX Runtime's cpu, cuda or tensorrt, openvino, or tuned, what frcnn tune chose "
        "(default: cuda on a GPU, what was tuned on a CPU, else cpu)"
    )
    group.add_argument("--provider", choices=PROVIDERS, help=text)
    text = "what --provider openvino computes float layers in (default: fp32)"
    group.add_argument("--precision", choices=ARITHMETIC, help=text)
    add_number(group, "--threads", minimum=1, metavar="N", help=threads)


def take_tuned(arguments: argparse.Namespace) -> Tuned | None:
    """Return what ``frcnn tune`` chose for the model where no option says how to run it, and say so in one line.

    None where an option does, or nothing that counts here was chosen.

    Raises:
        ArtifactError: the model or its tuned file cannot be used.
    """
    given = any(getattr(arguments, name) is not None for name in _HOW_TO_RUN)
    if given or arguments.provider not in (None, "tuned"):
        return None
    artifact = open_artifact(arguments.model)
    tuned = read_tuned(artifact) if isinstance(artifact, OnnxArtifact) else None
    if isinstance(tuned, Tuned):
        note(tuned.text)
        return tuned
    if tuned is not None and arguments.provider is None:  # else Detector.load warns
        note(f"{tuned.reason}: frcnn tune {arguments.model}")
    return None


def batch_size(arguments: argparse.Namespace, tuned: Tuned | None) -> int:
    """Return ``--batch-size``, or what was tuned, or 1."""
    if arguments.batch_size is not None:
        return int(arguments.batch_size)
    return 1 if tuned is None else tuned.setting.batch
