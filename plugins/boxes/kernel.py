"""The common part of the kernels of RegionProposals and BoxDetections: their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

from frcnn.errors import KernelError
from frcnn.plugins.kernel import Constant

LARGEST: Final = float.fromhex("0x1.fffffep+127")
"""The largest number of float32."""

_SMALLEST: Final = 2.0**-126  # the least number that float32 holds at full precision


class BoxOptions(TypedDict):
    """The operators' common attributes."""

    box_weights: Sequence[float]
    max_log_scale: float
    iou_threshold: float
    score_threshold: float
    min_size: float


def box_constants(options: BoxOptions, **counts: tuple[int, int]) -> dict[str, Constant]:
    """Return the macros of the attributes; ``counts`` are numbers of boxes with their maximum.

    Raises KernelError for weights that are not 4 numbers other than 0, thresholds and sizes out of range, and anything
    that is not a number of float32.
    """
    box_weights = options["box_weights"]
    if len(box_weights) != 4 or not all(_SMALLEST <= abs(weight) <= LARGEST for weight in box_weights):
        raise KernelError(f"box_weights must be 4 numbers other than 0, got {tuple(box_weights)}")
    for name, value, least, most in (
        ("max_log_scale", options["max_log_scale"], -LARGEST, LARGEST),
        ("iou_threshold", options["iou_threshold"], 0, 1),
        ("score_threshold", options["score_threshold"], -LARGEST, 1),
        ("min_size", options["min_size"], 0, LARGEST),
        *((name, count, 1, maximum) for name, (count, maximum) in counts.items()),
    ):
        if not least <= value <= most:
            raise KernelError(f"{name} must be from {least:g} to {most:g}, got {value}")
    return {
        "BOX_WEIGHTS": tuple(map(float, box_weights)),
        "MAX_LOG_SCALE": float(options["max_log_scale"]),
        "SCORE_THRESHOLD": float(options["score_threshold"]),
        "IOU_THRESHOLD": float(options["iou_threshold"]),
        "MIN_SIZE": float(options["min_size"]),
    }
