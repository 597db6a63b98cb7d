"""Describe what was read from weights, and what was assumed because weights do not hold it, one line each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from torchvision.models.detection import FasterRCNN

from frcnn.spec import ModelSpec

NO_LABELS: Final = "labels: none given, so label k is category id k (--labels)"


def facts_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return what was read from the shapes of the weights."""
    anchors = spec.rpn.anchors_per_location
    return (
        f"classes: {spec.num_classes - 1} and the background (roi_heads.box_predictor)",
        f"RPN: {anchors[0]} anchors per location (rpn.head.cls_logits)",
    )


def assumptions_of(model: FasterRCNN, spec: ModelSpec, *, given: Collection[str], known: bool) -> list[str]:
    """Return the settings that were taken from the builder and not ``given`` by the user, one line each.

    The lines name the ``--arg`` to use if the builder is ``known`` to accept ``FasterRCNN``'s arguments.
    """
    transform, rpn, heads = spec.transform, spec.rpn, spec.roi_heads
    generator = model.rpn.anchor_generator
    resized = f"to a short side of {transform.min_size} px, a long side of at most {transform.max_size} px"
    if transform.fixed_size is not None:
        resized = f"to {transform.fixed_size[0]}x{transform.fixed_size[1]} px (height x width)"
    lines = (
        (
            ("rpn_anchor_sizes", "rpn_aspect_ratios"),
            f"anchors: sizes {_per_level(generator.sizes)} px, height/width {_per_level(generator.aspect_ratios)}",
        ),
        (("min_size", "max_size"), f"images: resized {resized}"),
        (
            ("image_mean", "image_std"),
            f"images: normalised with mean {transform.image_mean}, std {transform.image_std}",
        ),
        (
            ("rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_test", "rpn_nms_thresh", "rpn_score_thresh"),
            f"RPN: {rpn.pre_nms_top_n} candidates per level, {rpn.post_nms_top_n} proposals, "
            f"NMS at IoU {rpn.nms_thresh:g}, scores from {rpn.score_thresh:g}",
        ),
        (
            ("box_score_thresh", "box_nms_thresh", "box_detections_per_img"),
            f"detections: at most {heads.detections_per_img} per image, scores above {heads.score_thresh:g}, "
            f"NMS at IoU {heads.nms_thresh:g}",
        ),
    )
    assumed = []
    for names, text in lines:
        not_given = [name for name in names if name not in given]
        if not not_given or ("min_size" in names and "fixed_size" in given):
            continue
        how = f" (--arg {', '.join(not_given)})" if known else ""
        assumed.append(f"{text}; as {spec.architecture} has it{how}")
    if spec.labels is None:
        assumed.append(NO_LABELS)
    return assumed


def _per_level(values: tuple[tuple[float, ...], ...]) -> str:
    """Format one tuple if it is the same for all levels, else one per level."""
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))
