"""The two networks of a Faster R-CNN: all of its weights, and nothing but plain layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class FeatureOutputs(NamedTuple):
    """Outputs of :class:`FeatureNetwork`, of the network's type.

    Attributes:
        objectness: L logits (N, A, Hᵢ, Wᵢ).
        deltas: L times (N, 4 A, Hᵢ, Wᵢ), anchor by anchor as (dx, dy, dw, dh).
        features: the maps (N, channels, Hᵢ, Wᵢ) that are pooled, finest first.
    """

    objectness: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


class BoxOutputs(NamedTuple):
    """Outputs of :class:`BoxNetwork`, of the network's type.

    Attributes:
        class_logits: (N * R, C); class 0 is the background.
        box_deltas: (N * R, 4 C), class by class as (dx, dy, dw, dh).
    """

    class_logits: Tensor
    box_deltas: Tensor


def luma(_backbone: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Give a grey backbone, as its forward pre-hook, the luma (N, 1, H, W) of RGB images (N, 3, H, W) by ITU-R BT.601.

    Normalised by one mean and std, an image of three equal channels stays what one of them is.
    """
    (images,) = inputs
    if images.shape[1] == 1:
        return images
    red, green, blue = images.chunk(3, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


class FeatureNetwork(nn.Module):
    """Backbone, FPN and RPN head.

    Args:
        backbone: from images to one map, or maps by name.
        rpn_head: from all maps to objectness and deltas of each.
        feature_names: the maps that are pooled.
        dtype: of parameters, inputs and outputs.
    """

    def __init__(
        self, backbone: nn.Module, rpn_head: nn.Module, feature_names: Sequence[str], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = nn.ModuleDict({"head": rpn_head})  # paths as in torchvision, after which nodes are named
        self.feature_names = tuple(feature_names)
        self.dtype = dtype
        self.to(dtype)

    def forward(self, images: Tensor) -> FeatureOutputs:
        """Compute the maps and the RPN head's predictions from ``images`` (N, 3, H, W)."""
        maps = self.backbone(images)
        features: dict[str, Tensor] = {"0": maps} if isinstance(maps, Tensor) else maps
        objectness, deltas = self.rpn["head"](list(features.values()))
        pooled = [features[name] for name in self.feature_names]
        return FeatureOutputs(
            *(tuple(_cast(t, self.dtype) for t in tensors) for tensors in (objectness, deltas, pooled))
        )


class BoxNetwork(nn.Module):
    """Box head and box predictor.

    Args:
        box_head: from pooled maps (N * R, channels, height, width) to what the predictor takes.
        box_predictor: from that to class logits and box deltas.
        dtype: of parameters, inputs and outputs.
    """

    def __init__(self, box_head: nn.Module, box_predictor: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.roi_heads = nn.ModuleDict({"box_head": box_head, "box_predictor": box_predictor})
        self.dtype = dtype
        self.to(dtype)

    def forward(self, pooled: Tensor) -> BoxOutputs:
        """Predict classes and boxes from ``pooled`` (N * R, channels, height, width)."""
        class_logits, box_deltas = self.roi_heads["box_predictor"](self.roi_heads["box_head"](pooled))
        return BoxOutputs(_cast(class_logits, self.dtype), _cast(box_deltas, self.dtype))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a tensor that is of another type: a cast to its own would be recorded as a node, too."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
