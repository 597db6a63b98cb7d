"""``--arg`` for a detector of another trainer, and what is said of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from frcnn.errors import UsageError
from frcnn.exporter.checkpoint.builder_arguments import check_values, refuse_unknown
from frcnn.exporter.checkpoint.trainers.settings import Settings

_FIELDS: Final = {
    **{name: name for name in ("min_size", "max_size", "pixel_mean", "pixel_std", "channel_order", "stride_in_1x1")},
    "rpn_pre_nms_top_n_test": "rpn_pre_nms_top_n",
    "rpn_post_nms_top_n_test": "rpn_post_nms_top_n",
    **{name: name for name in ("rpn_nms_thresh", "box_score_thresh", "box_nms_thresh", "box_detections_per_img")},
}
"""By the name of an argument, which are those of ``FasterRCNN`` where it has one, the field of the settings."""


def with_args(settings: Settings, args: Mapping[str, object]) -> Settings:
    """Return settings with the user's arguments; UsageError for unknown ones and values of another kind."""
    refuse_unknown(args, _FIELDS, builder=f"a detector of {settings.trainer}")
    check_values(args)
    for name, value in args.items():
        if not _fits(name, value):
            expected = {"channel_order": "rgb or bgr", "stride_in_1x1": "True or False"}.get(name, "three numbers")
            raise UsageError(f"--arg {name}: expected {expected}, got {value!r}", hint="write it as --arg KEY=VALUE")
    changes: dict[str, Any] = {_FIELDS[name]: value for name, value in args.items()}
    if {"min_size", "max_size"} & changes.keys():
        changes["fixed_size"] = None
    return replace(settings, **changes)


def _fits(name: str, value: Any) -> bool:
    if name == "channel_order":
        return value in ("rgb", "bgr")
    if name == "stride_in_1x1":
        return isinstance(value, bool)
    if not name.startswith("pixel_"):
        return True
    numbers = isinstance(value, (tuple, list)) and len(value) == 3 and all(type(one) in (int, float) for one in value)
    return numbers and (name == "pixel_mean" or all(one > 0 for one in value))


def describe(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Return lines about the settings, each with the options that change it."""
    size = settings.fixed_size
    resized = f"a short side of {settings.min_size} px, a long side of at most {settings.max_size} px"
    sides = [f"{x2 - x1:.0f}x{y2 - y1:.0f}" for x1, y1, x2, y2 in settings.anchors[0]]
    pooled = "RoI max pooling" if settings.pool_max else f"RoIAlign{'' if settings.pool_aligned else ', not aligned'}"
    order, std = settings.channel_order.upper(), settings.pixel_std
    dilated = ", the last stage dilated" if 2 in settings.dilations else ""
    return (
        (f"images: resized to {f'{size[0]}x{size[1]} px' if size else resized}", "--arg min_size, max_size"),
        (
            f"images: {order} from 0 to 255, normalised with mean {settings.pixel_mean}, std {std}",
            "--arg channel_order, pixel_mean, pixel_std",
        ),
        (
            f"backbone: the {'1x1' if settings.stride_in_1x1 else '3x3'} convolutions have the strides{dilated}",
            "--arg stride_in_1x1",
        ),
        (
            f"anchors: {', '.join(sides)} px at stride {settings.anchor_strides[0]}, {len(settings.anchors)} level(s); "
            f"{pooled}, {settings.pool_size}x{settings.pool_size}",
            "--config",
        ),
        (
            f"RPN: {settings.rpn_pre_nms_top_n} candidates per level, {settings.rpn_post_nms_top_n} proposals, "
            f"NMS at IoU {settings.rpn_nms_thresh:g}",
            "--arg rpn_pre_nms_top_n_test, rpn_post_nms_top_n_test, rpn_nms_thresh",
        ),
        (
            f"detections: at most {settings.box_detections_per_img} per image, scores above "
            f"{settings.box_score_thresh:g}, NMS at IoU {settings.box_nms_thresh:g}",
            "--arg box_score_thresh, box_nms_thresh, box_detections_per_img",
        ),
    )
