"""The options of every verb that runs a model: where it runs, and on how many threads."""

from __future__ import annotations

from frcnn.options import Group, add_number
from frcnn.runtime.host.onnxruntime_providers import PROVIDERS

__all__ = ["add_run_options"]


def add_run_options(group: Group, *, device: str, threads: str) -> None:
    """Add ``--device``, ``--provider`` and ``--threads``."""
    group.add_argument("--device", choices=("cpu", "cuda"), help=device)
    text = "execution provider of ONNX Runtime for model.onnx (default: cuda on a GPU, cpu otherwise)"
    group.add_argument("--provider", choices=PROVIDERS, help=text)
    add_number(group, "--threads", minimum=1, metavar="N", help=threads)
