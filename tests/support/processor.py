"""What the processor of this machine can do, where results depend on it."""

from __future__ import annotations

import platform
from pathlib import Path

from frcnn.runtime.dependencies import openvino_core


def has_bfloat16() -> bool:
    """Return whether OpenVINO computes in bf16 here."""
    with openvino_core() as core:
        return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def saturates() -> bool:
    """Return whether ONNX Runtime adds pairs of int8 products in 16 bits here, which is not enough for the largest."""
    cpuinfo = Path("/proc/cpuinfo")
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return is_x86 and not (cpuinfo.exists() and "vnni" in cpuinfo.read_text())
