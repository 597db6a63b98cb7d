"""Builders of the known architectures, by name. None of them downloads anything.

A builder returns a ``FasterRCNN`` with random weights. ``num_classes`` includes the background. Builders accept every
keyword of ``FasterRCNN`` and ``GeneralizedRCNNTransform``, and these four:

- ``norm``: ``"batch"`` (``BatchNorm2d``) or ``"frozen"`` (``FrozenBatchNorm2d``) in the backbone. torchvision uses the
  second with pretrained weights; in eval mode they differ only in rounding.
- ``norm_eps``: epsilon of the batch norms. Weights do not hold it, see ``FROZEN_NORM_EPS``.
- ``rpn_anchor_sizes``: for each feature level, square roots of areas in pixels of the resized image.
- ``rpn_aspect_ratios``: height / width for each feature level, or one sequence for all levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from torch import Tensor, nn
from torchvision.models import detection, resnet, vgg16
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from frcnn.exporter.checkpoint.builder_arguments import TORCHVISION_NAMES
from frcnn.exporter.model.pooling import MultiScaleRoIPool

Builder: TypeAlias = Callable[..., FasterRCNN]
Norm = Literal["batch", "frozen"]

DEFAULT_NORM_EPS: Final = 1e-5

FROZEN_NORM_EPS: Final[dict[str, float]] = {"fasterrcnn_resnet50_fpn": 0.0}
"""Epsilons of ``FrozenBatchNorm2d`` other than 1e-5, by architecture.

torchvision sets 0.0 (``overwrite_eps``) when it loads ``FasterRCNN_ResNet50_FPN_Weights.COCO_V1``, and for no other
Faster R-CNN. Models fine-tuned from those weights, or trained before pytorch/vision#2933, have 0.0; models trained
from ImageNet weights have 1e-5.
"""

_Sizes: TypeAlias = Sequence[Sequence[int]]
_Ratios: TypeAlias = Sequence[float] | Sequence[Sequence[float]]


def _from_torchvision(name: str) -> Builder:
    def bare(num_classes: int, **kwargs: Any) -> FasterRCNN:
        return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes, **kwargs)

    return _named(name, bare)


def _resnet_fpn(depth: int) -> Builder:
    """Return a builder like ``fasterrcnn_resnet50_fpn`` of another depth."""

    def bare(num_classes: int, **kwargs: Any) -> FasterRCNN:
        backbone = resnet_fpn_backbone(
            backbone_name=f"resnet{depth}", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        return FasterRCNN(backbone, num_classes=num_classes, **kwargs)

    return _named(f"fasterrcnn_resnet{depth}_fpn", bare)


def _bare_vgg16(num_classes: int, **kwargs: Any) -> FasterRCNN:
    """Build the network of arXiv:1506.01497: VGG16 to conv5_3 (stride 16), RoI max pooling, two layers of 4096.

    Sizes (600, 1000), 300 proposals and three anchor sizes are the paper's. It has 6000 candidates before NMS; here
    they are 1000, as in torchvision.
    """
    features = vgg16(weights=None).features[:-1]  # without the last max pooling
    features.out_channels = 512
    paper: dict[str, Any] = {
        "min_size": 600,
        "max_size": 1000,
        "rpn_post_nms_top_n_test": 300,
        "rpn_anchor_generator": AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        "box_roi_pool": MultiScaleRoIPool(["0"], 7),
        "box_head": TwoMLPHead(512 * 7 * 7, 4096),
        "box_predictor": FastRCNNPredictor(4096, num_classes),
    }
    return FasterRCNN(features, **(paper | kwargs))


class ResNetStageHead(nn.Module):
    """The last stage of a ResNet as box head (C4): layer4 on a 14x14 pooled grid, then the mean over the grid."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute features (K, 2048) of pooled RoIs (K, 1024, 14, 14)."""
        features: Tensor = self.layer4(pooled)
        return features.mean(dim=(2, 3))


def _resnet_c4(depth: int) -> Builder:
    """Return a builder of the single-level ResNet of arXiv:1512.03385: conv4 (stride 16), RoI max pooling, conv5."""

    def bare(num_classes: int, **kwargs: Any) -> FasterRCNN:
        body = getattr(resnet, f"resnet{depth}")(weights=None, norm_layer=nn.BatchNorm2d)
        backbone = IntermediateLayerGetter(body, {"layer3": "0"})
        backbone.out_channels = 1024
        form: dict[str, Any] = {
            "rpn_anchor_generator": AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
            "box_roi_pool": MultiScaleRoIPool(["0"], 14),
            "box_head": ResNetStageHead(body.layer4),
            "box_predictor": FastRCNNPredictor(2048, num_classes),
        }
        return FasterRCNN(backbone, **(form | kwargs))

    return _named(f"fasterrcnn_resnet{depth}_c4", bare)


def _named(name: str, bare: Builder) -> Builder:
    """Add the keywords that all builders share."""

    def build(
        *,
        num_classes: int = 91,
        norm: Norm = "batch",
        norm_eps: float | None = None,
        rpn_anchor_sizes: _Sizes | None = None,
        rpn_aspect_ratios: _Ratios | None = None,
        **kwargs: Any,
    ) -> FasterRCNN:
        model = bare(num_classes=num_classes, **kwargs)
        if rpn_anchor_sizes is not None or rpn_aspect_ratios is not None:
            _set_anchors(model, rpn_anchor_sizes, rpn_aspect_ratios)
        _set_norms(model, norm, norm_eps)
        return model

    build.__name__ = build.__qualname__ = name
    return build


def _set_anchors(model: FasterRCNN, sizes: _Sizes | None, ratios: _Ratios | None) -> None:
    """Change the anchors, and the RPN head if the number of anchors per location changes."""
    generator = model.rpn.anchor_generator
    level_sizes = generator.sizes if sizes is None else tuple(tuple(level) for level in sizes)
    if ratios is None:
        level_ratios: Sequence[Any] = [generator.aspect_ratios[0]] * len(level_sizes)
    elif isinstance(ratios[0], (int, float)):
        level_ratios = [tuple(ratios)] * len(level_sizes)
    else:
        level_ratios = [tuple(level) for level in ratios]  # type: ignore[arg-type]
    if len(level_sizes) != len(generator.sizes) or len(level_ratios) != len(level_sizes):
        raise ValueError(
            f"expected anchors for {len(generator.sizes)} feature levels, got sizes for {len(level_sizes)} "
            f"and ratios for {len(level_ratios)}"
        )
    before = generator.num_anchors_per_location()
    model.rpn.anchor_generator = AnchorGenerator(level_sizes, tuple(level_ratios))
    after = model.rpn.anchor_generator.num_anchors_per_location()
    if len(set(after)) != 1:
        raise ValueError(f"expected the same number of anchors per location on every level, got {after}")
    if after != before:
        model.rpn.head = RPNHead(model.backbone.out_channels, after[0], conv_depth=len(model.rpn.head.conv))


def _set_norms(model: FasterRCNN, norm: Norm, eps: float | None) -> None:
    """Set kind and epsilon of the batch norms in the backbone, and in a box head that is a ResNet stage."""
    if norm not in ("batch", "frozen"):
        raise ValueError(f"norm: expected 'batch' or 'frozen', got {norm!r}")
    parts: list[nn.Module] = [getattr(model.backbone, "body", model.backbone)]  # not the FPN, as torchvision
    if isinstance(model.roi_heads.box_head, ResNetStageHead):
        parts.append(model.roi_heads.box_head)
    for part in parts:
        for parent in list(part.modules()):
            for name, child in list(parent.named_children()):
                if not isinstance(child, nn.BatchNorm2d):
                    continue
                if eps is not None:
                    child.eps = eps
                if norm == "frozen":
                    setattr(parent, name, FrozenBatchNorm2d(child.num_features, eps=child.eps))


ARCHITECTURES: Final[dict[str, Builder]] = {
    builder.__name__: builder
    for builder in (
        *map(_from_torchvision, TORCHVISION_NAMES),
        *(_resnet_fpn(depth) for depth in (18, 34, 101, 152)),
        _named("fasterrcnn_vgg16", _bare_vgg16),
        *(_resnet_c4(depth) for depth in (50, 101)),
    )
}
"""Every builder by name."""
