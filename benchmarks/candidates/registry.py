"""All ways to run a model, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from frcnn.benchmarks.candidates.candidate import Way
from frcnn.benchmarks.candidates.eager import eager_rows
from frcnn.benchmarks.candidates.engine import engine_rows
from frcnn.benchmarks.candidates.onnx import naive_tensorrt, onnx_rows

__all__ = ["all_ways"]


def all_ways(artifacts: Sequence[Path], device: str, *, equal_sized: bool) -> list[Way]:
    """Return every row of a run.

    Args:
        artifacts: model files that were given; kinds of which there is none are built where they can run.
        device: ``"cpu"`` or ``"cuda"``: where eager runs.
        equal_sized: whether the images differ in size, so that some rows take resized ones.
    """
    return [
        *eager_rows(device, equal_sized=equal_sized),
        *onnx_rows(artifacts, device, equal_sized=equal_sized),
        *engine_rows(artifacts),
        naive_tensorrt(equal_sized=equal_sized),
    ]
