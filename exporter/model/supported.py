"""Check that a model can be exported."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from frcnn.errors import UnsupportedModelError
from frcnn.exporter.model.pooling import MultiScaleRoIPool
from frcnn.exporter.model.restated import (
    RestatedAnchorGenerator,
    RestatedRoIHeads,
    RestatedRoIPooler,
    RestatedTransform,
)

# The methods of torchvision that the deployable module reimplements. A subclass that overrides one of these computes
# something else; backbone, RPN head, box head and box predictor are used as they are and may be of any class.
_REIMPLEMENTED: dict[type, tuple[str, ...]] = {
    GeneralizedRCNN: ("forward", "__call__"),
    GeneralizedRCNNTransform: ("forward", "normalize", "resize", "batch_images", "postprocess"),
    RegionProposalNetwork: ("forward", "filter_proposals", "_get_top_n_idx", "pre_nms_top_n", "post_nms_top_n"),
    AnchorGenerator: ("forward", "grid_anchors", "set_cell_anchors"),
    RoIHeads: ("forward", "postprocess_detections"),
    BoxCoder: ("decode", "decode_single"),
}

# What these change is reimplemented, too.
_RESTATED = (RestatedTransform, RestatedAnchorGenerator, RestatedRoIHeads)


def require_supported(model: torch.nn.Module) -> GeneralizedRCNN:
    """Return the model if it can be exported, or raise UnsupportedModelError, which names the part and the reason."""
    if not isinstance(model, GeneralizedRCNN):
        raise UnsupportedModelError(
            f"expected a torchvision FasterRCNN, got {type(model).__module__}.{type(model).__name__}",
            hint=inner_detector(model)
            or "build it with torchvision.models.detection.FasterRCNN or one of its builders",
        )
    heads = model.roi_heads
    _require_unchanged("roi_heads", heads, RoIHeads)
    for part in ("mask", "keypoint"):
        if getattr(heads, f"has_{part}")():
            raise UnsupportedModelError(
                f"roi_heads.{part}_head: {part} heads have no deployable form (this is a {type(model).__name__})",
                hint="export a FasterRCNN with the same backbone, RPN and box head",
            )
    _require_unchanged("model", model, GeneralizedRCNN)
    _require_unchanged("transform", model.transform, GeneralizedRCNNTransform)
    _require_unchanged("rpn", model.rpn, RegionProposalNetwork)
    _require_unchanged("rpn.anchor_generator", model.rpn.anchor_generator, AnchorGenerator)
    _require_unchanged("rpn.box_coder", model.rpn.box_coder, BoxCoder)
    _require_unchanged("roi_heads.box_coder", heads.box_coder, BoxCoder)
    _require_pooler(heads.box_roi_pool)
    for name, part in (("the model", model), ("rpn", model.rpn), ("roi_heads", heads)):
        if part.training:
            raise UnsupportedModelError(f"{name} is in training mode", hint="call model.eval() first")
    return model


def inner_detector(model: object) -> str | None:
    """Return which attribute of a module holds a detector, as a hint; None if none does."""
    parts = model.named_modules() if isinstance(model, torch.nn.Module) else ()
    name = next((name for name, part in parts if isinstance(part, GeneralizedRCNN)), None)
    return name and f"the detector is its attribute {name}: give that, model.{name}"


def _require_unchanged(part: str, value: Any, base: type) -> None:
    if not isinstance(value, base):
        raise UnsupportedModelError(
            f"{part}: expected torchvision's {base.__name__}, got {type(value).__name__}",
            hint="use torchvision's own class; a custom backbone, RPN head, box head or predictor is fine",
        )
    known = type(value) if type(value) in _RESTATED else base
    for method in _REIMPLEMENTED[base]:
        if getattr(type(value), method) is not getattr(known, method) or method in vars(value):
            raise UnsupportedModelError(
                f"{part}: {type(value).__name__} changes {base.__name__}.{method}(), which is reimplemented here",
                hint="use torchvision's own method; a custom backbone, RPN head, box head or predictor is fine",
            )


def _require_pooler(pooler: Any) -> None:
    if type(pooler) not in (MultiScaleRoIAlign, MultiScaleRoIPool, RestatedRoIPooler):
        raise UnsupportedModelError(
            f"roi_heads.box_roi_pool: no deployable form of {type(pooler).__module__}.{type(pooler).__name__}",
            hint="use torchvision.ops.MultiScaleRoIAlign or frcnn.exporter.MultiScaleRoIPool",
        )
