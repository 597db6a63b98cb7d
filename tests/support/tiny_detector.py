"""A real Faster R-CNN as small as can be: the exporter's own graph, about 2 ms an image on one thread.

Its weights are random and seeded, so what it finds means nothing; but it finds several objects in every image that is
not plain, and what it finds depends on every pixel. That is what tests of load and of faults need.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from frcnn.exporter import export_onnx

_CHANNELS, _HIDDEN, _CLASSES, _GRID, _SIDE = 8, 16, 4, 3, 32


def build() -> FasterRCNN:
    """Return the detector: one map of stride 8, three anchors a cell, images resized to 32 pixels."""
    torch.manual_seed(7)
    backbone = nn.Sequential(
        nn.Conv2d(3, _CHANNELS, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=4, padding=1),
        nn.ReLU(),
    )
    backbone.out_channels = _CHANNELS
    detector = FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=_GRID, sampling_ratio=2),
        box_head=TwoMLPHead(_CHANNELS * _GRID**2, _HIDDEN),
        box_predictor=FastRCNNPredictor(_HIDDEN, _CLASSES),
        min_size=_SIDE,
        max_size=2 * _SIDE,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_test=20,
        box_detections_per_img=10,
    )
    with torch.no_grad():  # so that scores differ from image to image
        detector.rpn.head.cls_logits.weight.mul_(50)
        detector.roi_heads.box_predictor.cls_score.weight[0] = 0
        detector.roi_heads.box_predictor.cls_score.weight[1:].mul_(60)
    return detector.eval()


def export_tiny(path: Path) -> Path:
    export_onnx(build(), path, architecture="tiny", labels=("one", "two", "three"))
    return path


def noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return an image of seeded noise, (height, width, 3) uint8."""
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
