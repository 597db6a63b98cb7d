"""Residual blocks, and the stages that they make."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes


class Block(nn.Module):
    """A residual block: two or three convolutions with norms, and a shortcut."""

    def __init__(self, shapes: Shapes, name: str, in_channels: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.depth = 3 if f"{name}.conv3.weight" in shapes else 2
        strided = 2 if self.depth == 3 and not shapes.settings.stride_in_1x1 else 1
        channels = in_channels
        for i in range(1, self.depth + 1):
            is_spatial = shapes.of(f"{name}.conv{i}.weight")[-1] > 1
            dilated = dilation if is_spatial and (self.depth == 3 or i == 1) else 1
            convolution = shapes.convolution(
                f"{name}.conv{i}", channels, stride=stride if i == strided else 1, dilation=dilated
            )
            channels = convolution.out_channels
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", shapes.norm(f"{name}.bn{i}"))
        self.downsample = shortcut(shapes, name, in_channels, stride=stride)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, channels, H / stride, W / stride) of (N, C, H, W)."""
        y = x
        for i in range(1, self.depth + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            if i < self.depth:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SplitBlock(nn.Module):
    """A block of Res2Net (arXiv:1904.01169): each part of the map but the last is convolved with the one before it."""

    def __init__(
        self, shapes: Shapes, name: str, in_channels: int, *, stride: int, dilation: int, is_first: bool
    ) -> None:
        super().__init__()
        self.conv1 = shapes.convolution(f"{name}.conv1", in_channels)
        self.bn1 = shapes.norm(f"{name}.bn1")
        count, width = shapes.count(f"{name}.convs"), shapes.of(f"{name}.convs.0.weight")[0]
        self.convs = nn.ModuleList(
            shapes.convolution(f"{name}.convs.{i}", width, stride=stride, dilation=dilation) for i in range(count)
        )
        self.bns = nn.ModuleList(shapes.norm(f"{name}.bns.{i}") for i in range(count))
        self.conv3 = shapes.convolution(f"{name}.conv3", self.conv1.out_channels)
        self.bn3 = shapes.norm(f"{name}.bn3")
        self.downsample = shortcut(shapes, name, in_channels, stride=stride)
        self.pool = nn.AvgPool2d(3, stride=stride, padding=1) if stride > 1 else nn.Identity()
        self.is_first = is_first  # of its stage, whose parts are not summed
        self.out_channels = self.conv3.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, channels, H / stride, W / stride) of (N, C, H, W)."""
        *parts, last = F.relu(self.bn1(self.conv1(x))).chunk(len(self.convs) + 1, dim=1)
        done: list[Tensor] = []
        for part, convolution, norm in zip(parts, self.convs, self.bns, strict=True):
            summed = part if self.is_first or not done else done[-1] + part
            done.append(F.relu(norm(convolution(summed))))
        y = self.bn3(self.conv3(torch.cat([*done, self.pool(last)], dim=1)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(shapes: Shapes, name: str, in_channels: int, *, stride: int) -> nn.Sequential | None:
    """Return what a block adds its input by, None where as it is.

    Where the convolution is the second, the mean of each square comes first, of what there is of it at the edges.
    """
    if not shapes.has(f"{name}.downsample"):
        return None
    if len(shapes.of(f"{name}.downsample.1.weight")) == 1:
        convolution = shapes.convolution(f"{name}.downsample.0", in_channels, stride=stride)
        return nn.Sequential(convolution, shapes.norm(f"{name}.downsample.1"))
    mean = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    convolution = shapes.convolution(f"{name}.downsample.1", in_channels)
    return nn.Sequential(mean, convolution, shapes.norm(f"{name}.downsample.2"))


def stage(shapes: Shapes, name: str, in_channels: int, *, stride: int, dilation: int) -> tuple[nn.Sequential, int]:
    """Return the blocks of a stage, of which the first halves the map, and their channels."""
    blocks: list[Block | SplitBlock] = []
    for i in range(shapes.count(name)):
        channels, step, path = (
            blocks[-1].out_channels if blocks else in_channels,
            stride if i == 0 else 1,
            f"{name}.{i}",
        )
        if shapes.has(f"{path}.convs"):
            blocks.append(SplitBlock(shapes, path, channels, stride=step, dilation=dilation, is_first=i == 0))
        else:
            blocks.append(Block(shapes, path, channels, stride=step, dilation=dilation))
    if not blocks:
        raise CheckpointError(f"the weights lack {name}", hint="save the whole detector")
    return nn.Sequential(*blocks), blocks[-1].out_channels
