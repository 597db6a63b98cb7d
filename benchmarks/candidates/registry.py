"""All candidates, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from frcnn.benchmarks.candidates.candidate import Candidate
from frcnn.benchmarks.candidates.eager import eager_candidates
from frcnn.benchmarks.candidates.engine import engine_candidates
from frcnn.benchmarks.candidates.onnx import naive_onnxruntime, naive_tensorrt, onnx_candidates

__all__ = ["all_candidates"]


def all_candidates(artifacts: Sequence[Path], device: str, *, mixed_sizes: bool) -> list[Candidate]:
    """Return every candidate of a run.

    Args:
        artifacts: the model files that were given; of a kind that is missing one is built where it can run.
        device: where eager runs, ``"cpu"`` or ``"cuda"``.
        mixed_sizes: whether the images differ in size, so that candidates of one size take resized ones.
    """
    return [
        *eager_candidates(device, mixed_sizes=mixed_sizes),
        naive_onnxruntime(device, mixed_sizes=mixed_sizes),
        *onnx_candidates(artifacts),
        *engine_candidates(artifacts),
        naive_tensorrt(mixed_sizes=mixed_sizes),
    ]
