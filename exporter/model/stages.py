"""The three operators between and after the networks, with the attributes of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.plugins import OperatorSpec, box_detections, multiscale_roi_align, multiscale_roi_pool, region_proposals
from frcnn.plugins.box_detections.reference import box_detections as reference_detections
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as reference_roi_align
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as reference_roi_pool
from frcnn.plugins.region_proposals.reference import region_proposals as reference_proposals
from frcnn.spec import PoolerSpec

_MIN_BOX_SIZE_PX: Final = 1e-2  # as in torchvision's postprocess_detections

Attribute = int | float | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An operator with its attributes, in the order of its spec; calling it runs its reference.

    Every float is one of float32, as in an ONNX file.
    """

    spec: OperatorSpec
    attributes: Mapping[str, Attribute]
    reference: Callable[..., Any]

    def __call__(self, *inputs: Any) -> Any:
        """Run the reference."""
        return self.reference(*inputs, **self.attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The stages of a model: RegionProposals, MultiscaleRoIAlign or MultiscaleRoIPool, and BoxDetections."""

    proposals: Stage
    pooling: Stage
    detections: Stage


def read_stages(model: GeneralizedRCNN, pooler: PoolerSpec) -> Stages:
    """Read the stages of a torchvision model off its RPN and RoI heads."""
    rpn, heads, generator = model.rpn, model.roi_heads, model.rpn.anchor_generator
    cell_anchors = [anchors.detach().float().tolist() for anchors in generator.cell_anchors]
    return Stages(
        proposals=_stage(
            region_proposals.SPEC,
            reference_proposals,
            anchors=[value for level, rows in enumerate(cell_anchors) for row in rows for value in (level, *row)],
            strides=[float(stride) for stride in getattr(generator, "level_strides", (0,) * len(cell_anchors))],
            **_coder(rpn.box_coder),
            pre_nms_top_n=int(rpn.pre_nms_top_n()),
            post_nms_top_n=int(rpn.post_nms_top_n()),
            iou_threshold=float32_floor(rpn.nms_thresh),
            score_threshold=float(rpn.score_thresh),
            min_size=float(rpn.min_size),
        ),
        pooling=_pooling(pooler),
        detections=_stage(
            box_detections.SPEC,
            reference_detections,
            **_coder(heads.box_coder),
            score_threshold=float(heads.score_thresh),
            iou_threshold=float32_floor(heads.nms_thresh),
            min_size=float(getattr(heads, "min_box_size", _MIN_BOX_SIZE_PX)),
            max_detections=int(heads.detections_per_img),
        ),
    )


def float32_floor(value: float) -> float:
    """Return the largest float32 that is <= ``value``.

    torchvision compares a float32 IoU with a float64 threshold; this threshold gives the same result in float32.
    """
    nearest = torch.tensor(value, dtype=torch.float32)
    if float(nearest) > value:
        nearest = torch.nextafter(nearest, torch.tensor(-math.inf))
    return float(nearest)


def _pooling(pooler: PoolerSpec) -> Stage:
    height, width = pooler.output_size
    attributes: dict[str, Any] = {
        "output_height": height,
        "output_width": width,
        "spatial_scales": pooler.spatial_scales,
        "level_thresholds": pooler.level_thresholds,
    }
    if pooler.kind == "max":
        return _stage(multiscale_roi_pool.SPEC, reference_roi_pool, **attributes)
    attributes |= {"sampling_ratio": pooler.sampling_ratio, "aligned": int(pooler.aligned)}
    return _stage(multiscale_roi_align.SPEC, reference_roi_align, **attributes)


def _coder(coder: BoxCoder) -> dict[str, Any]:
    return {"box_weights": coder.weights, "max_log_scale": float(coder.bbox_xform_clip)}


def _stage(spec: OperatorSpec, reference: Callable[..., Any], **attributes: Any) -> Stage:
    rounded = {attribute.name: _as_stored(attributes[attribute.name]) for attribute in spec.attributes}
    return Stage(spec=spec, attributes=rounded, reference=reference)


def _as_stored(value: Any) -> Attribute:
    if isinstance(value, int):
        return value
    stored = torch.tensor(value, dtype=torch.float32).tolist()
    return tuple(stored) if isinstance(stored, list) else float(stored)
