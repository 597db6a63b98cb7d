"""Detectors on torchvision's own ConvNeXt-T and Swin-T, as a user would build them with its feature extraction."""

from __future__ import annotations

from torchvision.models import convnext_tiny, swin_t
from torchvision.models.detection import FasterRCNN

from support.families import _Pyramid

_NODES = [f"features.{stage}" for stage in (1, 3, 5, 7)]
_CHANNELS = [96, 192, 384, 768]


def convnext_tiny_fpn(num_classes: int = 91) -> FasterRCNN:
    return FasterRCNN(_Pyramid(convnext_tiny().eval(), _NODES, _CHANNELS, channels_last=False, width=256), num_classes)


def swin_t_fpn(num_classes: int = 91) -> FasterRCNN:
    return FasterRCNN(_Pyramid(swin_t().eval(), _NODES, _CHANNELS, channels_last=True, width=256), num_classes)
