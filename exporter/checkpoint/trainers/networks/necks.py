"""Feature pyramids with more than the top-down path of torchvision's."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes

_GATHERED: Final = 2
"""The level at which all are gathered, of a balanced pyramid."""


class PathAggregationNetwork(FeaturePyramidNetwork):  # type: ignore[misc]  # torchvision is untyped
    """A pyramid with a second path, from the finest map up (PANet, arXiv:1803.01534)."""

    def __init__(self, shapes: Shapes, name: str, channels: list[int], out: int, *, has_extra: bool) -> None:
        super().__init__(channels, out)
        for kind, stride in (("downsample_convs", 2), ("pafpn_convs", 1)):
            layers = []
            for i in range(len(channels) - 1):
                path = f"{name}.{kind}.{i}"
                norm = [shapes.norm(f"{path}.1")] if shapes.has(f"{path}.1") else []
                layers.append(nn.Sequential(shapes.convolution(f"{path}.0", out, stride=stride), *norm))
            self.add_module(kind, nn.ModuleList(layers))
        self.extra = LastLevelMaxPool() if has_extra else None

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the maps of all levels, finest first."""
        levels = super().forward(x)
        names, maps = list(levels), list(levels.values())
        for i, smaller in enumerate(self.downsample_convs):
            maps[i + 1] = maps[i + 1] + smaller(maps[i])
        maps[1:] = [convolution(one) for convolution, one in zip(self.pafpn_convs, maps[1:], strict=True)]
        if self.extra is not None:
            maps, names = self.extra(maps, [], names)
        return dict(zip(names, maps, strict=True))


class BalancedPyramid(FeaturePyramidNetwork):  # type: ignore[misc]
    """A pyramid to whose levels their refined mean is added (Libra R-CNN, arXiv:1904.02701)."""

    def __init__(self, shapes: Shapes, name: str, channels: list[int], out: int, *, has_extra: bool) -> None:
        super().__init__(channels, out, LastLevelMaxPool() if has_extra else None)
        self.refine = NonLocal(shapes, f"{name}.refine", out)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the maps of all levels, finest first; the gathered one's stride divides the canvas."""
        levels = super().forward(x)
        finer, gathered, coarser = _split(list(levels.values()))
        height, width = gathered.shape[-2:]
        same = [F.max_pool2d(one, 2 ** (len(finer) - i)) for i, one in enumerate(finer)]
        same += [gathered, *(_nearest(one, height, width) for one in coarser)]
        mean = self.refine(torch.stack(same).mean(dim=0))
        maps = [one + F.interpolate(mean, size=one.shape[-2:], mode="nearest") for one in finer]
        maps.append(gathered + mean)
        maps += [one + _largest(mean, one.shape[2], one.shape[3], 2**i + 1) for i, one in enumerate(coarser, 1)]
        return dict(zip(levels, maps, strict=True))


def _split(maps: list[Tensor]) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    return maps[:_GATHERED], maps[_GATHERED], maps[_GATHERED + 1 :]


class MergedPyramid(nn.Module):
    """The levels of one map that all are merged into (HRNetV2p, arXiv:1904.04514)."""

    def __init__(self, shapes: Shapes, name: str, channels: int) -> None:
        super().__init__()
        self.reduction_conv = shapes.convolution(f"{name}.reduction_conv", channels)
        out, levels = self.reduction_conv.out_channels, range(shapes.count(f"{name}.layer_blocks"))
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(shapes.convolution(f"{name}.layer_blocks.{i}.0", out)) for i in levels
        )

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the maps of all levels, finest first."""
        first, *others = x.values()
        larger = [F.interpolate(one, scale_factor=2**i, mode="bilinear") for i, one in enumerate(others, 1)]
        merged = self.reduction_conv(torch.cat([first, *larger], dim=1))
        smaller = [merged, *(F.avg_pool2d(merged, 2**i) for i in range(1, len(self.layer_blocks)))]
        return {str(i): block(one) for i, (block, one) in enumerate(zip(self.layer_blocks, smaller, strict=True))}


class NonLocal(nn.Module):
    """Each cell of a map sees all of them (embedded Gaussian, arXiv:1711.07971)."""

    def __init__(self, shapes: Shapes, name: str, channels: int) -> None:
        super().__init__()
        self.g = shapes.convolution(f"{name}.g", channels)
        self.theta = shapes.convolution(f"{name}.theta", channels)
        self.phi = shapes.convolution(f"{name}.phi", channels)
        self.conv_out = shapes.convolution(f"{name}.conv_out", self.g.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, C, H, W) of (N, C, H, W)."""
        near = (self.theta(x).flatten(2).transpose(1, 2) @ self.phi(x).flatten(2)).softmax(dim=-1)
        seen = (near @ self.g(x).flatten(2).transpose(1, 2)).transpose(1, 2)
        y: Tensor = x + self.conv_out(seen.unflatten(2, x.shape[-2:]))
        return y


def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Return the map in another size, by whole numbers: runtimes round 2 / 3 of a cell in different ways."""
    for dim, size in ((2, height), (3, width)):
        x = x.index_select(dim, torch.arange(size, device=x.device) * x.shape[dim] // size)
    return x


def _largest(x: Tensor, height: int, width: int, reach: int) -> Tensor:
    """Return the largest value of each window, as adaptive max pooling does; a window has up to ``reach`` cells."""
    for dim, size in ((2, height), (3, width)):
        given, cell = x.shape[dim], torch.arange(size, device=x.device)
        first, last = cell * given // size, ((cell + 1) * given + size - 1) // size - 1
        windows = [x.index_select(dim, torch.minimum(first + i, last)) for i in range(reach)]
        x = torch.stack(windows).amax(dim=0)
    return x
