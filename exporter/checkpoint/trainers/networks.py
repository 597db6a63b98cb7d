"""The networks of another trainer's detector; depth, widths, groups and norms are read off the weights' shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.architectures import ResNetStageHead
from frcnn.exporter.checkpoint.trainers.blocks import stage
from frcnn.exporter.checkpoint.trainers.hrnet import HRNetBody
from frcnn.exporter.checkpoint.trainers.necks import BalancedPyramid, MergedPyramid, PathAggregationNetwork
from frcnn.exporter.checkpoint.trainers.shapes import Shapes

_BODY: Final = "backbone.body"
_FPN: Final = "backbone.fpn"
_HEAD: Final = "roi_heads.box_head"


def deep_stem(shapes: Shapes) -> tuple[nn.Sequential, int]:
    """Return three 3x3 convolutions in place of one of 7x7 (ResNet-D, arXiv:1812.01187), and their channels."""
    layers: list[nn.Module] = []
    channels = 3
    for i in (0, 3, 6):
        convolution = shapes.convolution(f"{_BODY}.stem.{i}", channels, stride=2 if i == 0 else 1)
        channels = convolution.out_channels
        layers += [convolution, shapes.norm(f"{_BODY}.stem.{i + 1}"), nn.ReLU()]
    return nn.Sequential(*layers), channels


class ResNetBody(nn.Module):
    """A ResNet, ResNeXt, RegNet, Res2Net or the like, that returns the maps of some stages.

    arXiv:1512.03385, arXiv:1611.05431, arXiv:2003.13678 and arXiv:1904.01169.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        settings = shapes.settings
        self.stem: nn.Sequential | None = None
        if shapes.has(f"{_BODY}.stem"):
            self.stem, channels = deep_stem(shapes)
        else:
            self.conv1 = shapes.convolution(f"{_BODY}.conv1", 3, stride=2)
            self.bn1 = shapes.norm(f"{_BODY}.bn1")
            channels = self.conv1.out_channels
        is_regnet = self.stem is None and self.conv1.kernel_size == (3, 3)  # its first stage halves the map
        self.maxpool = nn.Identity() if is_regnet else nn.MaxPool2d(3, stride=2, padding=1)
        self.out_stages = settings.out_stages
        self.num_stages = max(settings.out_stages) + 1
        self.channels: list[int] = []  # of the maps that are returned
        for i in range(self.num_stages):
            blocks, channels = stage(
                shapes,
                f"{_BODY}.layer{i + 1}",
                channels,
                stride=settings.strides[i],
                dilation=settings.dilations[i],
            )
            self.add_module(f"layer{i + 1}", blocks)
            if i in self.out_stages:
                self.channels.append(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of the stages, finest first, of images (N, 3, H, W)."""
        x = F.relu(self.bn1(self.conv1(images))) if self.stem is None else self.stem(images)
        x = self.maxpool(x)
        maps = []
        for i in range(self.num_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
            if i in self.out_stages:
                maps.append(x)
        return maps


class Backbone(nn.Module):
    """A body and its feature pyramid (arXiv:1612.03144), if it has one."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.body = HRNetBody(shapes, _BODY) if shapes.has(f"{_BODY}.transition1") else ResNetBody(shapes)
        self.fpn: nn.Module | None = None
        self.out_channels = self.body.channels[-1]
        if shapes.has(_FPN):
            self.fpn = _pyramid(shapes, self.body.channels)
            self.out_channels = shapes.of(f"{_FPN}.layer_blocks.0.0.weight")[0]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Compute feature maps by name, "0" the finest, of images (N, 3, H, W)."""
        maps = OrderedDict((str(i), one) for i, one in enumerate(self.body(images)))
        return maps if self.fpn is None else self.fpn(maps)


def _pyramid(shapes: Shapes, channels: Sequence[int]) -> nn.Module:
    levels = len(shapes.settings.anchors)
    if levels not in (len(channels), len(channels) + 1):
        raise CheckpointError(
            f"{levels} levels of anchors do not fit a pyramid of {len(channels)} maps",
            hint="give the configuration that the model was trained with (--config)",
        )
    out = shapes.of(f"{_FPN}.layer_blocks.0.0.weight")[0]
    has_extra = levels > len(channels)
    pyramid: nn.Module
    if shapes.has(f"{_FPN}.pafpn_convs"):
        pyramid = PathAggregationNetwork(shapes, _FPN, list(channels), out, has_extra=has_extra)
    elif shapes.has(f"{_FPN}.reduction_conv"):
        pyramid = MergedPyramid(shapes, _FPN, sum(channels))
    elif shapes.has(f"{_FPN}.refine"):
        pyramid = BalancedPyramid(shapes, _FPN, list(channels), out, has_extra=has_extra)
    else:
        pyramid = FeaturePyramidNetwork(list(channels), out, LastLevelMaxPool() if has_extra else None)
    if shapes.has(f"{_FPN}.inner_blocks.0.1"):  # torchvision's takes one kind of norm for all widths
        for kind, widths in (("inner_blocks", channels), ("layer_blocks", [out] * len(channels))):
            blocks = [
                nn.Sequential(shapes.convolution(f"{_FPN}.{kind}.{i}.0", width), shapes.norm(f"{_FPN}.{kind}.{i}.1"))
                for i, width in enumerate(widths)
            ]
            setattr(pyramid, kind, nn.ModuleList(blocks))
    return pyramid


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
