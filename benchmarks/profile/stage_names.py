"""Which stage of the network a layer belongs to, told by its name.

The exporter names nodes after torchvision's modules (``backbone/body/...``, ``rpn/head/...``), and runtimes keep those
names in what they fuse and rearrange. What a runtime adds, and the insides of the operators' function bodies, have no
such name: they belong to where they run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

__all__ = ["NETWORK_STAGES", "NetworkStage", "stage_of", "stages_in_order"]

NetworkStage = Literal["backbone", "FPN", "RPN head", "proposals", "RoI pooling", "box head", "post"]
NETWORK_STAGES: Final[tuple[NetworkStage, ...]] = get_args(NetworkStage)
"""In the order that data flows."""

_TOLD_BY: Final[Mapping[NetworkStage, str]] = {
    "RoI pooling": r"roi_heads[/.]Multiscale|RoiAlign|MaxRoiPool|MultiscaleRoI",
    "box head": r"roi_heads[/.]box_(?:head|predictor)",
    "post": r"roi_heads[/.]",
    "RPN head": r"rpn[/.]head",
    "proposals": r"rpn[/.]",
    "FPN": r"backbone[/.]fpn",
    "backbone": r"backbone[/.]",
}
_NAMES: Final = {stage: re.compile(rf"(?:^|[^A-Za-z0-9.])(?:{text})") for stage, text in _TOLD_BY.items()}


def stage_of(name: str) -> NetworkStage | None:
    """Return the stage that a layer's name tells, the first in the order above where it tells several; None if none."""
    return next((stage for stage, pattern in _NAMES.items() if pattern.search(name)), None)


def stages_in_order(names: Sequence[str]) -> list[NetworkStage]:
    """Return the stage of every layer of a run, in the order in which they ran.

    A layer whose name tells nothing belongs to the one before it. Between the proposals and the box head it belongs to
    RoI pooling, whose body sorts RoIs by level before it pools and puts the results back in order after.
    """
    told = [stage_of(name) for name in names]
    following: list[NetworkStage | None] = [None] * len(told)
    coming: NetworkStage | None = None
    for index in reversed(range(len(told))):
        coming = following[index] = told[index] or coming
    found: list[NetworkStage] = []
    before: NetworkStage = "backbone"
    for stage, coming in zip(told, following, strict=True):
        if stage is not None:
            before = stage
        elif before == "proposals" and coming in ("RoI pooling", "box head"):
            before = "RoI pooling"
        found.append(before)
    return found
