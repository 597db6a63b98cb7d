"""Recognise the weights of models that are no torchvision Faster R-CNN, to say so by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["impostor", "recognise"]

_ONLY = "frcnn exports torchvision's Faster R-CNN only"

# (a pattern one of the keys has, what it is, what to do); the first that fits.
_FAMILIES: Final[tuple[tuple[str, str, str], ...]] = (
    (r"(^|\.)roi_heads\.mask_(head|predictor)\.", "a Mask R-CNN", f"{_ONLY}; masks have no deployable form here"),
    (r"(^|\.)roi_heads\.keypoint_", "a Keypoint R-CNN", f"{_ONLY}; keypoints have no deployable form here"),
    (r"(^|\.)head\.regression_head\.bbox_ctrness\.", "a torchvision FCOS", _ONLY),
    (r"(^|\.)head\.classification_head\.module_list\.", "a torchvision SSD", _ONLY),
    (r"(^|\.)head\.classification_head\.", "a torchvision RetinaNet", _ONLY),
    (r"(^|\.)proposal_generator\.|(^|\.)backbone\.bottom_up\.", "a Detectron2 model", f"{_ONLY}, not Detectron2's"),
    (r"(^|\.)roi_head\.bbox_head\.|(^|\.)rpn_head\.rpn_conv\.", "an MMDetection model", f"{_ONLY}, not MMDetection's"),
    (r"(^|\.)transformer\.encoder\..*|(^|\.)class_embed\.", "a DETR-like model", _ONLY),
    (r"(^|\.)\d+\.(conv|cv\d)\.|(^|\.)dfl\.conv\.|(^|\.)module_list\.\d+\.", "a YOLO model", _ONLY),
    (r"^(module\.|model\.)?(fc|classifier|heads?)\.(\d+\.)?weight$", "an image classifier", "train a detector with it"),
    (r"(^|\.)(layer1|features|stages|blocks)\.\d+\.", "a backbone without a detector", "save the whole detector"),
)

_WITH_ROI_HEADS = ("a Mask R-CNN", "a Keypoint R-CNN", "a Detectron2 model")


def impostor(keys: Iterable[str]) -> tuple[str, str] | None:
    """Return what a state_dict is, and what to do, where it has ``roi_heads`` but is no Faster R-CNN; else None."""
    what, hint = recognise(keys)
    return (what, hint) if what in _WITH_ROI_HEADS else None


def recognise(keys: Iterable[str]) -> tuple[str, str]:
    """Return what a state_dict is by its keys, and what to do about it."""
    names = list(keys)
    for pattern, what, hint in _FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return what, hint
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{len(names)} tensors ({shown}, ...)", "save model.state_dict() of a torchvision FasterRCNN"
