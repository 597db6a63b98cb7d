"""Backbones of another trainer's detector: a ResNet or the like, and its pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.trainers.networks.blocks import stage
from frcnn.exporter.checkpoint.trainers.networks.hrnet import HRNetBody
from frcnn.exporter.checkpoint.trainers.networks.necks import BalancedPyramid, MergedPyramid, PathAggregationNetwork
from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes

_BODY: Final = "backbone.body"
_FPN: Final = "backbone.fpn"


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
