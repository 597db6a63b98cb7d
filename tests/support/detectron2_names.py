"""Weights of a detector under Detectron2's names."""

from __future__ import annotations

import re

from torch import Tensor


def named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under Detectron2's names."""
    body = "backbone.bottom_up" if any("fpn" in name for name in weights) else "backbone"
    renamed = {}
    for name, tensor in weights.items():
        for pattern, new in (
            (r"backbone\.body\.(?=conv1)", f"{body}.stem."),
            (r"backbone\.body\.bn1", f"{body}.stem.conv1.norm"),
            (r"backbone\.body\.layer(\d)", lambda match: f"{body}.res{int(match[1]) + 1}"),
            (r"roi_heads\.box_head\.layer4", "roi_heads.res5"),
            (r"\.bn(\d)\.", r".conv\1.norm."),
            (r"\.downsample\.0\.", ".shortcut."),
            (r"\.downsample\.1\.", ".shortcut.norm."),
            (r"fpn\.inner_blocks\.(\d)\.0", lambda match: f"fpn_lateral{int(match[1]) + 2}"),
            (r"fpn\.layer_blocks\.(\d)\.0", lambda match: f"fpn_output{int(match[1]) + 2}"),
            (r"rpn\.head\.conv\.0\.0", "proposal_generator.rpn_head.conv"),
            (r"rpn\.head\.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
            (r"rpn\.head\.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
            (r"box_head\.fcs\.(\d)", lambda match: f"box_head.fc{int(match[1]) + 1}"),
        ):
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    return renamed
