"""The shapes of weights, off which modules are read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.trainers.settings import Settings


class Shapes:
    """The weights by name, from which modules of the same shapes are built; they are loaded afterwards."""

    def __init__(self, state: Mapping[str, Tensor], settings: Settings) -> None:
        self._state = state
        self.settings = settings

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def count(self, prefix: str) -> int:
        """Return how many numbered children a module has: of ``layer1``, its blocks."""
        numbers = {name[len(prefix) + 1 :].partition(".")[0] for name in self._state if name.startswith(f"{prefix}.")}
        return sum(number.isdecimal() for number in numbers)

    def has(self, prefix: str) -> bool:
        """Return whether a module has weights."""
        return any(name.startswith(f"{prefix}.") for name in self._state)

    def of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; raise CheckpointError where it is missing."""
        if name not in self._state:
            raise CheckpointError(f"the weights lack {name}", hint="save the whole detector")
        return tuple(self._state[name].shape)

    def convolution(self, name: str, in_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
        """Return a convolution that keeps the size but for its stride."""
        out, per_group, height, width = self.of(f"{name}.weight")
        return nn.Conv2d(
            in_channels,
            out,
            (height, width),
            stride=stride,
            padding=(dilation * (height // 2), dilation * (width // 2)),
            dilation=dilation,
            groups=in_channels // per_group,
            bias=f"{name}.bias" in self,
        )

    def norm(self, name: str) -> nn.Module:
        """Return a batch norm, which is frozen, or a group norm where there are no running statistics."""
        (channels,) = self.of(f"{name}.weight")
        if f"{name}.running_mean" in self:
            frozen: nn.Module = FrozenBatchNorm2d(channels, eps=1e-5)
            return frozen
        return nn.GroupNorm(self.settings.norm_groups, channels)

    def linear(self, name: str) -> nn.Linear:
        """Return a fully connected layer."""
        out, given = self.of(f"{name}.weight")
        return nn.Linear(given, out)
