"""The feature level that a RoI is pooled from: torchvision's rule, without its logarithm.

``torchvision.ops.poolers.LevelMapper`` computes, in float32, ``floor(k0 + log2(sqrt(area) / s0) + 1e-6)`` and clamps it
(equation 1 of Feature Pyramid Networks, arXiv:1612.03144). That is monotone in sqrt(area), so each level begins at one
float32, which :func:`level_thresholds` finds. Counting the thresholds a RoI reaches then gives torchvision's level.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

NEVER = float(np.finfo(np.float32).max)
"""A threshold that no RoI's side reaches."""


def level_thresholds(level_of_side: Callable[[float], int], *, coarsest_level: int) -> tuple[float, ...]:
    """Return the float32 values of sqrt(area) at which levels 1 to ``max(1, coarsest_level)`` begin, or :data:`NEVER`.

    ``level_of_side`` is torchvision's rule: sqrt(area) in canvas pixels, a float32 > 0, to a level index from 0.
    """
    sides = range(1, 0x7F7FFFFF)  # bits of positive float32 values are ordered as the values are; the end is NEVER
    levels = range(1, max(1, coarsest_level) + 1)
    firsts = (bisect_left(sides, level, key=lambda bits: level_of_side(_float32(bits))) for level in levels)
    return tuple(_float32(sides.start + first) for first in firsts)


def _float32(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))
