"""Detections, after ``torchvision.models.detection.roi_heads``, padded to a fixed number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from frcnn.exporter.model.boxes import clip, decode, float32_floor, is_larger
from frcnn.exporter.model.operators import divide, nms, pool_rois
from frcnn.spec import PoolerSpec

__all__ = ["DetectionStage", "PaddedDetections"]

_MIN_SIZE_PX = 1e-2  # as in torchvision's postprocess_detections


class PaddedDetections(NamedTuple):
    """Outputs of the network; rows from ``num_detections`` on are 0.

    Attributes:
        num_detections: (N) int32.
        boxes: (N, K, 4) float32, as (x1, y1, x2, y2) in canvas pixels.
        scores: (N, K) float32, in descending order.
        labels: (N, K) int32, class indices from 1.
    """

    num_detections: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor


class DetectionStage(nn.Module):
    """Predict the best K detections of each image from its feature maps and proposals."""

    def __init__(self, heads: RoIHeads, pooler: PoolerSpec) -> None:
        super().__init__()
        self.pooler = pooler
        self.box_head = heads.box_head
        self.box_predictor = heads.box_predictor
        self.weights = tuple(float(w) for w in heads.box_coder.weights)
        self.max_log_scale = float(heads.box_coder.bbox_xform_clip)
        self.iou_threshold = float32_floor(heads.nms_thresh)
        self.score_thresh = float(heads.score_thresh)
        self.detections_per_img = int(heads.detections_per_img)

    def forward(self, features: Sequence[Tensor], proposals: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """Classify and refine proposals, then apply NMS per class.

        Args:
            features: feature maps (N, channels, Hᵢ, Wᵢ), finest first.
            proposals: (N, R, 4) float32, as (x1, y1, x2, y2) in canvas pixels; x2 < x1 for padding.
            image_sizes: (N, 2) float32, (height, width) of each resized image.
        """
        pooled = pool_rois(proposals, features, self.pooler)
        class_logits, box_deltas = self.box_predictor(self.box_head(pooled))
        num_proposals, num_classes = proposals.shape[1], class_logits.shape[-1]

        # without the background, class 0: (N, C - 1, R, ...)
        scores = class_logits.float().softmax(-1).reshape(-1, num_proposals, num_classes)[..., 1:].transpose(1, 2)
        deltas = box_deltas.float().reshape(-1, num_proposals, num_classes, 4)[:, :, 1:].transpose(1, 2)
        boxes = clip(decode(deltas, proposals[:, None], self.weights, self.max_log_scale), image_sizes)

        is_proposal = (proposals[..., 2] >= proposals[..., 0])[:, None]
        is_candidate = is_proposal & (scores > self.score_thresh) & is_larger(boxes, _MIN_SIZE_PX)
        scores = torch.where(is_candidate, scores, -1.0)

        kept = nms(boxes.flatten(0, 1), scores.flatten(0, 1), self.iou_threshold)
        kept = kept.reshape(-1, (num_classes - 1) * num_proposals)
        best_scores, best = kept.topk(min(self.detections_per_img, kept.shape[1]), dim=1)
        best_boxes = boxes.flatten(1, 2).gather(1, best[..., None].expand(-1, -1, 4))
        is_detection = best_scores >= 0
        return PaddedDetections(
            num_detections=is_detection.sum(1, dtype=torch.int32),
            boxes=torch.where(is_detection[..., None], best_boxes, 0.0),
            scores=torch.where(is_detection, best_scores, 0.0),
            labels=torch.where(is_detection, divide(best, num_proposals) + 1, 0).to(torch.int32),
        )
