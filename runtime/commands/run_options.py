"""The options of every verb that runs a model: where it runs, by what, in which precision, on how many threads."""

from __future__ import annotations

from frcnn.options import Group, add_number
from frcnn.runtime.host.providers import PROVIDERS, RUN_PRECISIONS

__all__ = ["add_run_options"]


def add_run_options(group: Group, *, device: str, threads: str) -> None:
    """Add ``--device``, ``--provider``, ``--precision`` and ``--threads``."""
    group.add_argument("--device", choices=("cpu", "cuda"), help=device)
    text = "what runs model.onnx: ONNX Runtime's cpu, cuda or tensorrt, or openvino (default: cuda on a GPU, else cpu)"
    group.add_argument("--provider", choices=PROVIDERS, help=text)
    text = "what --provider openvino computes float layers in (default: fp32)"
    group.add_argument("--precision", choices=RUN_PRECISIONS, help=text)
    add_number(group, "--threads", minimum=1, metavar="N", help=threads)
