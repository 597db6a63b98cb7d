"""Box heads, RPN head and box predictor of another trainer's detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from frcnn.exporter.checkpoint.architectures import ResNetStageHead
from frcnn.exporter.checkpoint.trainers.networks.blocks import stage
from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes

_HEAD: Final = "roi_heads.box_head"


class BoxHead(nn.Module):
    """Convolutions with norms, then fully connected layers, each with a ReLU."""

    def __init__(self, shapes: Shapes, in_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for i in range(shapes.count(f"{_HEAD}.convs")):
            convolution = shapes.convolution(f"{_HEAD}.convs.{i}.0", in_channels)
            in_channels = convolution.out_channels
            norm = [shapes.norm(f"{_HEAD}.convs.{i}.1")] if shapes.has(f"{_HEAD}.convs.{i}.1") else []
            self.convs.append(nn.Sequential(convolution, *norm))
        self.fcs = nn.ModuleList(shapes.linear(f"{_HEAD}.fcs.{i}") for i in range(shapes.count(f"{_HEAD}.fcs")))

    def forward(self, x: Tensor) -> Tensor:
        """Compute features (K, D) of pooled RoIs (K, C, side, side)."""
        for convolution in self.convs:
            x = F.relu(convolution(x))
        x = x.flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return x


def box_head(shapes: Shapes, in_channels: int) -> nn.Module:
    """Return the box head; where it is the last stage of a ResNet (C4), that."""
    if not shapes.has(f"{_HEAD}.layer4"):
        return BoxHead(shapes, in_channels)
    settings = shapes.settings
    last = len(settings.strides) - 1
    layer4, _ = stage(
        shapes, f"{_HEAD}.layer4", in_channels, stride=settings.strides[last], dilation=settings.dilations[last]
    )
    return ResNetStageHead(layer4)


class LimitedRPNHead(RPNHead):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's RPN head of any width between its layers, with a lower limit of dw and dh."""

    def __init__(self, shapes: Shapes, in_channels: int) -> None:
        anchors = shapes.of("rpn.head.cls_logits.weight")[0]
        super().__init__(in_channels, anchors)
        for i in range(shapes.count("rpn.head.conv")):
            self.conv[i][0] = shapes.convolution(f"rpn.head.conv.{i}.0", in_channels)
            in_channels = self.conv[i][0].out_channels
        self.cls_logits = shapes.convolution("rpn.head.cls_logits", in_channels)
        self.bbox_pred = shapes.convolution("rpn.head.bbox_pred", in_channels)
        least = _least(shapes.settings.min_log_scale, (1.0,) * 4, anchors)
        self.register_buffer("least", None if least is None else least[:, None, None], persistent=False)

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute logits (N, A, H, W) and deltas (N, 4 A, H, W) of each map."""
        logits, deltas = super().forward(x)
        return logits, deltas if self.least is None else [torch.maximum(level, self.least) for level in deltas]


class LimitedPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's box predictor with a lower limit of dw and dh."""

    def __init__(self, shapes: Shapes) -> None:
        classes, given = shapes.of("roi_heads.box_predictor.cls_score.weight")
        super().__init__(given, classes)
        settings = shapes.settings
        self.register_buffer("least", _least(settings.min_log_scale, settings.box_weights, classes), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits (K, C) and deltas (K, 4 C)."""
        logits, deltas = super().forward(x)
        return logits, deltas if self.least is None else torch.maximum(deltas, self.least)


def _least(min_log_scale: float | None, weights: Sequence[float], count: int) -> Tensor | None:
    """Return the least deltas (4 count) before they are divided by the weights; float16 holds them all."""
    if min_log_scale is None:
        return None
    unlimited = -60_000.0
    one = torch.tensor([unlimited, unlimited, min_log_scale * weights[2], min_log_scale * weights[3]])
    return one.repeat(count)
