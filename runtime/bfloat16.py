"""bfloat16 on the host, where NumPy has no such type: its bits as 16-bit integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bfloat16_bits"]


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return finite float32 values as the bits of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    half_or_less = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half_or_less) >> np.uint32(16)).astype(np.uint16)
