"""Which feature level a RoI is pooled from: torchvision's rule, without its logarithm.

``torchvision.ops.poolers.LevelMapper`` computes, in float32, ``floor(k0 + log2(sqrt(area) / s0) + 1e-6)`` and clamps it
(equation 1 of Feature Pyramid Networks, arXiv:1612.03144). That is monotone in sqrt(area), so each level begins at one
float32; :func:`level_thresholds` finds these, and a level is then a count of comparisons, exactly torchvision's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

__all__ = ["NEVER", "level_thresholds"]

NEVER = struct.unpack("<f", struct.pack("<I", 0x7F7FFFFF))[0]
"""The largest float32: a threshold that no RoI's side reaches."""


def level_thresholds(level_of_side: Callable[[float], int], *, coarsest_level: int) -> tuple[float, ...]:
    """Return where levels 1, 2, … coarsest_level begin, as float32 values of sqrt(area).

    Args:
        level_of_side: torchvision's rule: sqrt(area) in canvas pixels, a float32 > 0, to a level index from 0.
        coarsest_level: the highest level index the rule is allowed to give.

    Returns:
        ``max(1, coarsest_level)`` values; :data:`NEVER` for a level that no side reaches.
    """
    return tuple(_first_side(level_of_side, level) for level in range(1, max(1, coarsest_level) + 1))


def _first_side(level_of_side: Callable[[float], int], level: int) -> float:
    low, high = 1, 0x7F7FFFFF  # bit patterns of positive float32 are ordered as their values are
    if level_of_side(_float32(high)) < level:
        return float(NEVER)
    while high - low > 1:
        middle = (low + high) // 2
        if level_of_side(_float32(middle)) >= level:
            high = middle
        else:
            low = middle
    return _float32(high)


def _float32(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])
