"""A Faster R-CNN of 50,000 parameters, and functions that build something else, for ``--arch``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

NOT_A_FUNCTION = 3


def build(num_classes: int = 4, **kwargs: Any) -> FasterRCNN:
    """Build a detector with one feature map of 8 channels."""
    backbone: Any = nn.Sequential(nn.Conv2d(3, 8, 3, stride=16, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    backbone.out_channels = 8
    parts: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(8 * 7 * 7, 16),
        "box_predictor": FastRCNNPredictor(16, num_classes),
        "min_size": 64,
        "max_size": 96,
    }
    return FasterRCNN(backbone, **(parts | kwargs))


def build_four_classes(*, min_size: int = 64) -> FasterRCNN:
    return build(4, min_size=min_size)


def build_tuple() -> Any:
    return build(), "extra"


def build_failing() -> FasterRCNN:
    raise OSError("the disk is\non fire")


class LightningLike(nn.Module):
    """A module with a detector inside, as training frameworks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build()
        self.loss_weight = nn.Parameter(torch.ones(1))
