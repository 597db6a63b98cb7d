"""Small detectors of other trainers: random weights by the names of ``trainers/networks.py``, and settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from frcnn.exporter.checkpoint.trainers.settings import Converted, Settings

RATIOS = (0.5, 1.0, 2.0)


def anchors(*sizes: float) -> tuple[tuple[float, float, float, float], ...]:
    """Return the anchors of a level, size by size, not rounded."""
    sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in sizes for ratio in RATIOS]
    return tuple((-w / 2, -h / 2, w / 2, h / 2) for w, h in sides)


def settings(**changes: Any) -> Settings:
    """Return the settings of a small pyramid of Detectron2's."""
    defaults: dict[str, Any] = {
        "trainer": "detectron2",
        "architecture": "tiny",
        "min_size": 96,
        "max_size": 160,
        "pixel_mean": (103.53, 116.28, 123.675),
        "pixel_std": (57.0, 58.0, 59.0),
        "channel_order": "bgr",
        "stride_in_1x1": True,
        "anchors": tuple(anchors(size) for size in (8, 16, 32, 64, 128)),
        "anchor_strides": (4, 8, 16, 32, 64),
        "box_score_thresh": 0.01,
    }
    return Settings(**(defaults | changes))


class Weights(dict[str, Tensor]):
    """Random weights by name, of a fixed seed."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def conv(self, name: str, out: int, given: int, side: int, *, bias: bool = False, gain: float = 1.0) -> None:
        """Add those of a convolution."""
        spread = gain * math.sqrt(2 / (given * side * side))
        self[f"{name}.weight"] = torch.randn(out, given, side, side, generator=self.generator) * spread
        if bias:
            self[f"{name}.bias"] = torch.randn(out, generator=self.generator) * 0.1

    def linear(self, name: str, out: int, given: int, *, gain: float = 1.0) -> None:
        """Add those of a fully connected layer."""
        self[f"{name}.weight"] = torch.randn(out, given, generator=self.generator) * gain * math.sqrt(2 / given)
        self[f"{name}.bias"] = torch.randn(out, generator=self.generator) * 0.1

    def norm(self, name: str, channels: int, *, has_statistics: bool = True) -> None:
        """Add those of a batch norm, or of a group norm."""
        self[f"{name}.weight"] = torch.rand(channels, generator=self.generator) + 0.5
        self[f"{name}.bias"] = torch.randn(channels, generator=self.generator) * 0.1
        if not has_statistics:
            return
        self[f"{name}.running_mean"] = torch.randn(channels, generator=self.generator) * 0.1
        self[f"{name}.running_var"] = torch.rand(channels, generator=self.generator) + 0.5

    def stage(self, name: str, given: int, width: int, out: int, groups: int = 1) -> None:
        """Add those of a stage of one block."""
        sides = (1, 3, 1)
        for i, (a, b) in enumerate(((given, width), (width, width), (width, out)), 1):
            self.conv(f"{name}.0.conv{i}", b, a // (groups if i == 2 else 1), sides[i - 1])
            self.norm(f"{name}.0.bn{i}", b)
        self.conv(f"{name}.0.downsample.0", out, given, 1)
        self.norm(f"{name}.0.downsample.1", out)


def state(*, classes: int = 3, pyramid: bool = True, agnostic: bool = False, groups: int = 1) -> dict[str, Tensor]:
    """Return weights with a pyramid, or of a C4 detector."""
    weights, widths = Weights(), (8, 16, 24, 32)
    weights.conv("backbone.body.conv1", 8, 3, 7)
    weights.norm("backbone.body.bn1", 8)
    given = 8
    for i, out in enumerate(widths if pyramid else widths[:3]):
        weights.stage(f"backbone.body.layer{i + 1}", given, out // 2, out, groups)
        given = out
    channels, per_cell, pooled = (16, 3, 7) if pyramid else (given, 6, 14)
    for i, out in enumerate(widths if pyramid else ()):
        weights.conv(f"backbone.fpn.inner_blocks.{i}.0", channels, out, 1, bias=True)
        weights.conv(f"backbone.fpn.layer_blocks.{i}.0", channels, channels, 3, bias=True)
    weights.conv("rpn.head.conv.0.0", channels, channels, 3, bias=True)
    weights.conv("rpn.head.cls_logits", per_cell, channels, 1, bias=True, gain=0.2)
    weights.conv("rpn.head.bbox_pred", 4 * per_cell, channels, 1, bias=True, gain=0.02)
    if pyramid:
        weights.linear("roi_heads.box_head.fcs.0", 32, channels * pooled * pooled)
        features = 32
    else:
        weights.stage("roi_heads.box_head.layer4", given, 16, 32)
        features = 32
    weights.linear("roi_heads.box_predictor.cls_score", classes + 1, features, gain=0.05)
    weights.linear("roi_heads.box_predictor.bbox_pred", 4 if agnostic else 4 * classes, features, gain=0.02)
    return dict(weights)


def converted(given: Settings | None = None, **form: Any) -> Converted:
    """Return weights and settings."""
    return Converted(settings=given or settings(), state=state(**form))


def c4(strides: Sequence[int] = (16,), **changes: Any) -> Converted:
    """Return a single-level detector on canvases of any size."""
    given = settings(
        out_stages=(2,),
        size_divisible=1,
        anchors=(anchors(16, 48),),
        anchor_strides=tuple(strides),
        pooled_levels=1,
        pool_size=14,
        **changes,
    )
    return converted(given, pyramid=False)
