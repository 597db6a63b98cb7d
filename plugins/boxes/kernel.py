"""The common part of the kernels of RegionProposals and BoxDetections: checks of their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from frcnn.errors import KernelError

LARGEST: Final = float.fromhex("0x1.fffffep+127")
"""The largest number of float32."""

_SMALLEST: Final = 2.0**-126  # the least number that float32 holds at full precision


def check_box_attributes(
    *,
    box_weights: Sequence[float],
    max_log_scale: float,
    iou_threshold: float,
    score_threshold: float,
    min_size: float,
    **counts: tuple[int, int],
) -> None:
    """Raise KernelError for values that no kernel has; ``counts`` are numbers of boxes with their maximum."""
    if len(box_weights) != 4 or not all(_SMALLEST <= abs(weight) <= LARGEST for weight in box_weights):
        raise KernelError(f"box_weights must be 4 numbers other than 0, got {tuple(box_weights)}")
    for name, value, least, most in (
        ("max_log_scale", max_log_scale, -LARGEST, LARGEST),
        ("iou_threshold", iou_threshold, 0, 1),
        ("score_threshold", score_threshold, -LARGEST, 1),
        ("min_size", min_size, 0, LARGEST),
        *((name, count, 1, maximum) for name, (count, maximum) in counts.items()),
    ):
        if not least <= value <= most:
            raise KernelError(f"{name} must be from {least:g} to {most:g}, got {value}")
