"""BoxDetections on CUDA."""

from __future__ import annotations

from typing import Any

from frcnn.plugins.kernel import Kernel

__all__ = ["kernels"]


def kernels(**options: Any) -> tuple[Kernel, ...]:
    """Return the kernels."""
    raise NotImplementedError(options)
