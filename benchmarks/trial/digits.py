"""The bundled detector: a small torchvision ``FasterRCNN``, built the ordinary way, that finds handwritten digits.

MobileNetV2 features with a 64-channel FPN at strides 8, 16 and 32 plus torchvision's ``LastLevelMaxPool`` ("pool",
stride 64), one anchor size per level, and a two-layer box head 256 wide: 2.9 million parameters. Nothing here
subclasses or patches torchvision, so the module doubles as an example of what ``--arch`` accepts. It is trained by
``examples/train_demo`` of the repository.
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

_FPN_CHANNELS: Final = 64
_HEAD_WIDTH: Final = 256
_POOL_SIZE: Final = 7
_ANCHOR_SIZES: Final = ((20,), (40,), (80,), (160,))  # sqrt(area) in px of the resized image, a tuple per level
_ASPECT_RATIOS: Final = (1.0, 1.6, 2.4)  # height / width
_ROI_CANONICAL_SCALE: Final = 64
"""With torchvision's default, 224, nearly every digit would be pooled from stride 8."""
_STAGES: Final = {"6": 32, "13": 96, "17": 320}
"""The MobileNetV2 block that ends each stride, and its channels."""
_DEFAULTS: Final[dict[str, Any]] = {
    "min_size": 320,
    "max_size": 512,
    "rpn_pre_nms_top_n_train": 300,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 150,
    "rpn_batch_size_per_image": 128,
    "box_batch_size_per_image": 128,
}


def build(num_classes: int = 11, *, features: nn.Module | None = None, **kwargs: Any) -> FasterRCNN:
    """Build the detector. Never downloads.

    Args:
        num_classes: Number of classes, the background (class 0) included.
        features: MobileNetV2's feature blocks; None for random weights.
        **kwargs: Of ``FasterRCNN``, over the detector's own (``min_size``, ``box_score_thresh``, ...).

    Returns:
        The detector in training mode, float32. Its input is a list of float32 CHW RGB images in [0, 1].
    """
    backbone = BackboneWithFPN(
        mobilenet_v2(weights=None).features if features is None else features,
        return_layers={name: str(level) for level, name in enumerate(_STAGES)},
        in_channels_list=list(_STAGES.values()),
        out_channels=_FPN_CHANNELS,
        extra_blocks=LastLevelMaxPool(),
    )
    parts: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(_ANCHOR_SIZES, (_ASPECT_RATIOS,) * len(_ANCHOR_SIZES)),
        "box_roi_pool": MultiScaleRoIAlign(
            [str(level) for level in range(len(_STAGES))],
            output_size=_POOL_SIZE,
            sampling_ratio=2,
            canonical_scale=_ROI_CANONICAL_SCALE,
        ),
        "box_head": TwoMLPHead(_FPN_CHANNELS * _POOL_SIZE**2, _HEAD_WIDTH),
        "box_predictor": FastRCNNPredictor(_HEAD_WIDTH, num_classes),
    }
    return FasterRCNN(backbone, **(_DEFAULTS | parts | kwargs))
