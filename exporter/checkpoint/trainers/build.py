"""Build a torchvision ``FasterRCNN`` from the weights and settings of another trainer."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.trainers.networks.backbones import Backbone
from frcnn.exporter.checkpoint.trainers.networks.heads import LimitedPredictor, LimitedRPNHead, box_head
from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes
from frcnn.exporter.checkpoint.trainers.settings import Converted, Settings, Triple
from frcnn.exporter.model.restated import (
    MIN_BOX_SIZE,
    MIN_PROPOSAL_SIZE,
    RestatedAnchorGenerator,
    RestatedRoIHeads,
    RestatedRoIPooler,
    RestatedTransform,
)
from frcnn.spec import TransformSpec

_SCORES: Final = "roi_heads.box_predictor.cls_score"
_BOXES: Final = "roi_heads.box_predictor.bbox_pred"
_COUNTER: Final = ".num_batches_tracked"


def build_restatement(converted: Converted) -> FasterRCNN:
    """Return the detector in eval mode, float32, on the CPU, with its weights.

    Raises CheckpointError, which names them, for weights that do not fit the settings.
    """
    settings = converted.settings
    state = _as_torchvision_has_them(converted)
    shapes = Shapes(state, settings)
    backbone = Backbone(shapes)
    levels = min(settings.pooled_levels, len(settings.anchors))
    pooler = RestatedRoIPooler(
        [str(level) for level in range(levels)],
        settings.pool_size,
        strides=settings.anchor_strides[:levels],
        trainer=settings.trainer,
        finest_scale=settings.finest_scale,
        kind="max" if settings.pool_max else "align",
        sampling_ratio=settings.sampling_ratio,
        aligned=settings.pool_aligned,
    )
    model = FasterRCNN(
        backbone,
        rpn_anchor_generator=RestatedAnchorGenerator(settings.anchors, settings.anchor_strides),
        rpn_head=LimitedRPNHead(shapes, backbone.out_channels),
        rpn_pre_nms_top_n_test=settings.rpn_pre_nms_top_n,
        rpn_post_nms_top_n_test=settings.rpn_post_nms_top_n,
        rpn_nms_thresh=settings.rpn_nms_thresh,
        rpn_score_thresh=0.0,
        box_roi_pool=pooler,
        box_head=box_head(shapes, backbone.out_channels),
        box_predictor=LimitedPredictor(shapes),
        box_score_thresh=settings.box_score_thresh,
        box_nms_thresh=settings.box_nms_thresh,
        box_detections_per_img=settings.box_detections_per_img,
        bbox_reg_weights=settings.box_weights,
    )
    model.rpn.min_size = MIN_PROPOSAL_SIZE
    model.roi_heads.__class__ = RestatedRoIHeads  # what torchvision's constructor set holds
    model.roi_heads.min_box_size = MIN_BOX_SIZE[settings.trainer]
    model.transform = RestatedTransform(_transform(settings))
    _load(model, state)
    return model.float().eval()


def _transform(settings: Settings) -> TransformSpec:
    return TransformSpec(
        min_size=settings.min_size,
        max_size=settings.max_size,
        fixed_size=settings.fixed_size,
        size_divisible=settings.size_divisible,
        image_mean=_of_rgb(settings.pixel_mean, settings),
        image_std=_of_rgb(settings.pixel_std, settings),
        resize=settings.trainer,
    )


def _of_rgb(values: Triple, settings: Settings) -> Triple:
    first, second, third = (value / 255 for value in values)
    return (first, second, third) if settings.channel_order == "rgb" else (third, second, first)


def _as_torchvision_has_them(converted: Converted) -> dict[str, Tensor]:
    """Return the weights for RGB images, the background the first class, and boxes of every class."""
    state = {name: t.detach().cpu().float() for name, t in converted.state.items() if not name.endswith(_COUNTER)}
    if converted.settings.channel_order == "bgr":
        first = "backbone.body.conv1.weight" if "backbone.body.conv1.weight" in state else _first(state)
        state[first] = state[first].flip(1)
    classes = len(state[f"{_SCORES}.weight"])
    for part in ("weight", "bias"):
        scores, boxes = state[f"{_SCORES}.{part}"], state[f"{_BOXES}.{part}"]
        state[f"{_SCORES}.{part}"] = scores.roll(1, dims=0)
        if len(boxes) not in (4, 4 * (classes - 1)):
            raise CheckpointError(
                f"the box predictor has {classes} classes with the background and {len(boxes)} box deltas,"
                f" expected {4 * (classes - 1)}, or 4 for all classes",
                hint="its scores and its boxes are of different models",
            )
        of_classes = [boxes] * (classes - 1) if len(boxes) == 4 else [boxes]
        state[f"{_BOXES}.{part}"] = torch.cat([torch.zeros_like(boxes[:4]), *of_classes])
    return state


def _first(state: dict[str, Tensor]) -> str:
    return next(name for name, tensor in state.items() if name.startswith("backbone.body.") and tensor.ndim == 4)


def _load(model: FasterRCNN, state: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    left = sorted(set(state) - set(expected)), sorted(set(expected) - set(state))
    for names, what in zip(left, ("that have no place in it", "that it needs are missing"), strict=True):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise CheckpointError(
                f"the detector was not understood: {len(names)} weights {what}: {shown}",
                hint="give the configuration that it was trained with (--config)",
            )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{name} is {tuple(tensor.shape)}, the configuration expects {tuple(expected[name].shape)}",
                hint="give the configuration that it was trained with (--config)",
            )
    model.load_state_dict(state)
