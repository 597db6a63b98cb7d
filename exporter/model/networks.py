"""The two networks of a Faster R-CNN: all of its weights, and nothing but plain layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
    """Backbone, FPN and RPN head; parameters, inputs and outputs are of one type, ``dtype``."""

    def __init__(
        self, backbone: nn.Module, rpn_head: nn.Module, feature_names: Sequence[str], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = nn.ModuleDict({"head": rpn_head})  # paths as in torchvision, after which nodes are named
        self.feature_names = tuple(feature_names)
        self.dtype = dtype
        self.to(dtype)

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Compute the RPN head's predictions and the maps that are pooled from ``images`` (N, 3, H, W).

        Returns:
            L logits of objectness (N, A, Hᵢ, Wᵢ), L times deltas (N, 4 A, Hᵢ, Wᵢ), anchor by anchor as
            (dx, dy, dw, dh), and the maps ``feature_names`` (N, channels, Hᵢ, Wᵢ), finest first.
        """
        maps = self.backbone(images)
        features: dict[str, Tensor] = {"0": maps} if isinstance(maps, Tensor) else maps
        objectness, deltas = self.rpn["head"](list(features.values()))
        pooled = [features[name] for name in self.feature_names]
        return tuple(tuple(_cast(t, self.dtype) for t in tensors) for tensors in (objectness, deltas, pooled))


class BoxNetwork(nn.Module):
    """Box head and box predictor; parameters, inputs and outputs are of one type, ``dtype``."""

    def __init__(self, box_head: nn.Module, box_predictor: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.roi_heads = nn.ModuleDict({"box_head": box_head, "box_predictor": box_predictor})
        self.dtype = dtype
        self.to(dtype)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Predict class logits (N * R, C) and box deltas (N * R, 4 C) from ``pooled`` (N * R, channels, height, width).

        Class 0 is the background; deltas are class by class, as (dx, dy, dw, dh).
        """
        class_logits, box_deltas = self.roi_heads["box_predictor"](self.roi_heads["box_head"](pooled))
        return _cast(class_logits, self.dtype), _cast(box_deltas, self.dtype)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a tensor that is of another type: a cast to its own would be recorded as a node, too."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
