"""Speed, parity and accuracy against eager torchvision; and what is chosen by measuring.

Example::

    from frcnn.benchmarks import quantize_onnx

    report = quantize_onnx("model.onnx", "model-int8.onnx", "images/", annotations="instances.json")
    print(report.passed, report.drop)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frcnn.benchmarks.quantization.quantize import quantize_onnx
    from frcnn.benchmarks.quantization.report import QuantizationReport

__all__ = ["QuantizationReport", "quantize_onnx"]

_HOMES = {
    "QuantizationReport": "frcnn.benchmarks.quantization.report",
    "quantize_onnx": "frcnn.benchmarks.quantization.quantize",
}


def __getattr__(name: str) -> object:
    """Import a name only when it is asked for: every ``--help`` imports this package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
