"""Which stage of the network a layer belongs to, by its name.

The exporter names nodes after torchvision's modules (``backbone/body/...``, ``rpn/head/...``), and runtimes keep those
names in what they fuse and rearrange. Nodes that a runtime adds, and those of the operators' function bodies, have no
such name: they belong to the stage that they run in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

__all__ = ["NETWORK_STAGES", "NetworkStage", "stage_of", "stages_in_order"]

NetworkStage = Literal["backbone", "FPN", "RPN head", "proposals", "RoI pooling", "box head", "post"]
NETWORK_STAGES: Final[tuple[NetworkStage, ...]] = get_args(NetworkStage)
"""In the order that data flows."""

_PATTERNS: Final[Mapping[NetworkStage, str]] = {
    "RoI pooling": r"roi_heads[/.]Multiscale|RoiAlign|MaxRoiPool|MultiscaleRoI",
    "box head": r"roi_heads[/.]box_(?:head|predictor)",
    "post": r"roi_heads[/.]",
    "RPN head": r"rpn[/.]head",
    "proposals": r"rpn[/.]",
    "FPN": r"backbone[/.]fpn",
    "backbone": r"backbone[/.]",
}
_COMPILED: Final = {stage: re.compile(rf"(?:^|[^A-Za-z0-9.])(?:{text})") for stage, text in _PATTERNS.items()}


def stage_of(name: str) -> NetworkStage | None:
    """Return the stage that a layer's name matches, the first in the order above of several; None if none."""
    return next((stage for stage, pattern in _COMPILED.items() if pattern.search(name)), None)


def stages_in_order(names: Sequence[str]) -> list[NetworkStage]:
    """Return the stage of every layer of a run, in the order in which they ran.

    A layer whose name matches none belongs to the stage before it. Between the proposals and the box head it belongs to
    RoI pooling, whose body sorts RoIs by level before it pools and puts the results back in order after.
    """
    matched = [stage_of(name) for name in names]
    stages: list[NetworkStage] = []
    current: NetworkStage = "backbone"
    for index, stage in enumerate(matched):
        following = next((later for later in matched[index + 1 :] if later is not None), None)
        if stage is not None:
            current = stage
        elif current == "proposals" and following in ("RoI pooling", "box head"):
            current = "RoI pooling"
        stages.append(current)
    return stages
