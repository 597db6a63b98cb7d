"""The demo's detector: a small torchvision ``FasterRCNN``, built the ordinary way.

MobileNetV2 features with a 64-channel FPN at strides 8, 16 and 32 plus torchvision's ``LastLevelMaxPool``
("pool", stride 64), one anchor size per level, and a two-layer box head 256 wide: 2.9 million parameters.
Nothing here subclasses or patches torchvision, so the file doubles as an example of what
``frcnn export digits.pth --arch examples/train_demo/model.py:build`` accepts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

FPN_CHANNELS = 64
HEAD_WIDTH = 256
POOL_SIZE = 7
ANCHOR_SIZES = ((20,), (40,), (80,), (160,))  # sqrt(area) in px of the resized image, a tuple per level
ASPECT_RATIOS = (1.0, 1.6, 2.4)  # height / width
# A RoI of 64..128 px (the square root of its area) is pooled from stride 16. With torchvision's default,
# 224, nearly every digit would be pooled from stride 8.
ROI_CANONICAL_SCALE = 64

# Index of the MobileNetV2 block that ends each stride, and its channels.
STAGES = {"6": 32, "13": 96, "17": 320}

# torchvision's MobileNet_V2_Weights.IMAGENET1K_V1; the name's suffix is the start of the file's SHA-256.
BACKBONE_FILE = "mobilenet_v2-b0353104.pth"

DEFAULTS: dict[str, Any] = {
    "min_size": 320,
    "max_size": 512,
    "rpn_pre_nms_top_n_train": 300,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 150,
    "rpn_batch_size_per_image": 128,
    "box_batch_size_per_image": 128,
}


def build(num_classes: int = 11, *, backbone_weights: str | Path | None = None, **kwargs: Any) -> FasterRCNN:
    """Build the detector with random weights, or with an ImageNet backbone from a file. Never downloads.

    Args:
        num_classes: Number of classes, the background (class 0) included.
        backbone_weights: A MobileNetV2 classification ``state_dict`` file for the backbone, or None.
        **kwargs: Passed on to ``FasterRCNN`` over ``DEFAULTS`` (``min_size``, ``box_score_thresh``, ...).

    Returns:
        The detector in training mode, float32. Its input is a list of float32 CHW RGB images in [0, 1].
    """
    backbone = BackboneWithFPN(
        _features(backbone_weights),
        return_layers={name: str(level) for level, name in enumerate(STAGES)},
        in_channels_list=list(STAGES.values()),
        out_channels=FPN_CHANNELS,
        extra_blocks=LastLevelMaxPool(),
    )
    parts: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(ANCHOR_SIZES, (ASPECT_RATIOS,) * len(ANCHOR_SIZES)),
        "box_roi_pool": MultiScaleRoIAlign(
            [str(level) for level in range(len(STAGES))],
            output_size=POOL_SIZE,
            sampling_ratio=2,
            canonical_scale=ROI_CANONICAL_SCALE,
        ),
        "box_head": TwoMLPHead(FPN_CHANNELS * POOL_SIZE**2, HEAD_WIDTH),
        "box_predictor": FastRCNNPredictor(HEAD_WIDTH, num_classes),
    }
    return FasterRCNN(backbone, **(DEFAULTS | parts | kwargs))


def _features(weights: str | Path | None) -> nn.Sequential:
    """Return MobileNetV2's feature blocks, with the weights of a classification file if one is given."""
    classifier = mobilenet_v2(weights=None)
    if weights is not None:
        try:
            classifier.load_state_dict(_read_weights(Path(weights)))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{weights}: not the weights of torchvision's mobilenet_v2") from error
    blocks: nn.Sequential = classifier.features
    return blocks


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a backbone file; one that carries torchvision's name must also have torchvision's hash."""
    if path.name == BACKBONE_FILE:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(Path(BACKBONE_FILE).stem.rpartition("-")[2]):
            raise ValueError(f"{path}: damaged, its SHA-256 starts {digest[:8]}")
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a PyTorch state_dict ({type(error).__name__})") from error
    return state
