"""HRNet: branches at several strides that exchange their maps (arXiv:1908.07919)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.exporter.checkpoint.trainers.networks.blocks import stage
from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes


class Exchange(nn.Module):
    """Branches of blocks, and for each of them the sum of what all make of their maps in its size."""

    def __init__(self, shapes: Shapes, name: str, widths: Sequence[int]) -> None:
        super().__init__()
        branches = [
            stage(shapes, f"{name}.branches.{i}", width, stride=1, dilation=1)[0] for i, width in enumerate(widths)
        ]
        self.branches = nn.ModuleList(branches)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(
                _resized(shapes, f"{name}.fuse_layers.{i}.{j}", width, j - i) for j, width in enumerate(widths)
            )
            for i in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Compute the maps of all branches, finest first."""
        maps = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        fused = []
        for layers in self.fuse_layers:
            first, *others = [layer(one) for layer, one in zip(layers.children(), maps, strict=True)]
            for one in others:
                first = first + one
            fused.append(F.relu(first))
        return fused


class HRNetBody(nn.Module):
    """An HRNet that returns the maps of all its branches."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.conv1 = shapes.convolution(f"{name}.conv1", 3, stride=2)
        self.bn1 = shapes.norm(f"{name}.bn1")
        self.conv2 = shapes.convolution(f"{name}.conv2", self.conv1.out_channels, stride=2)
        self.bn2 = shapes.norm(f"{name}.bn2")
        self.layer1, channels = stage(shapes, f"{name}.layer1", self.conv2.out_channels, stride=1, dilation=1)
        self.channels = [channels]  # of the maps that are returned
        for number in (2, 3, 4):
            branches = shapes.count(f"{name}.stage{number}.0.branches")
            transition = nn.ModuleList()
            for i in range(branches):
                path, given = f"{name}.transition{number - 1}.{i}", self.channels[min(i, len(self.channels) - 1)]
                transition.append(_new_branch(shapes, path, given))
            self.channels = [
                shapes.of(f"{name}.stage{number}.0.branches.{i}.0.conv1.weight")[1] for i in range(branches)
            ]
            modules = range(shapes.count(f"{name}.stage{number}"))
            exchanges = [Exchange(shapes, f"{name}.stage{number}.{i}", self.channels) for i in modules]
            self.add_module(f"transition{number - 1}", transition)
            self.add_module(f"stage{number}", nn.Sequential(*exchanges))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps, finest first, of images (N, 3, H, W)."""
        x = F.relu(self.bn1(self.conv1(images)))
        maps = [self.layer1(F.relu(self.bn2(self.conv2(x))))]
        for number in (2, 3, 4):
            given = [maps[min(i, len(maps) - 1)] for i in range(number)]
            layers = self.get_submodule(f"transition{number - 1}").children()
            maps = self.get_submodule(f"stage{number}")([layer(one) for layer, one in zip(layers, given, strict=True)])
        return maps


def _new_branch(shapes: Shapes, name: str, channels: int) -> nn.Module:
    """Return what gives a branch its width or, for a new one, half the size; nothing where its map stays as it is."""
    if f"{name}.0.weight" in shapes:
        return nn.Sequential(shapes.convolution(f"{name}.0", channels), shapes.norm(f"{name}.1"), nn.ReLU())
    if shapes.has(name):
        return _halved(shapes, name, channels, ends_with_relu=True)
    return nn.Identity()


def _resized(shapes: Shapes, name: str, channels: int, doublings: int) -> nn.Module:
    if doublings == 0:
        return nn.Identity()
    if doublings < 0:
        return _halved(shapes, name, channels, ends_with_relu=False)
    convolution, norm = shapes.convolution(f"{name}.0", channels), shapes.norm(f"{name}.1")
    return nn.Sequential(convolution, norm, nn.Upsample(scale_factor=2**doublings, mode="nearest"))


def _halved(shapes: Shapes, name: str, channels: int, *, ends_with_relu: bool) -> nn.Sequential:
    """Return convolutions that halve the map, each with its norm, and with ReLUs between them."""
    steps: list[nn.Module] = []
    count = shapes.count(name)
    for i in range(count):
        convolution = shapes.convolution(f"{name}.{i}.0", channels, stride=2)
        channels = convolution.out_channels
        relu = [nn.ReLU()] if ends_with_relu or i < count - 1 else []
        steps.append(nn.Sequential(convolution, shapes.norm(f"{name}.{i}.1"), *relu))
    return nn.Sequential(*steps)
