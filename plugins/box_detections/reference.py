"""Reference of BoxDetections in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from frcnn.plugins.boxes.reference import clip, decode, is_larger, keep_best


class PaddedDetections(NamedTuple):
    """Detections; rows from ``num_detections`` on are 0."""

    num_detections: Tensor  # (N) int32
    boxes: Tensor  # (N, K, 4) float32, as (x1, y1, x2, y2) in canvas pixels
    scores: Tensor  # (N, K) float32, in descending order
    labels: Tensor  # (N, K) int32, class indices from 1


def box_detections(
    rois: Tensor,  # (N, R, 4) float32, as (x1, y1, x2, y2) in canvas pixels; one with x2 < x1 is absent
    image_sizes: Tensor,  # (N, 2) int32, (height, width) of each resized image
    class_logits: Tensor,  # (N * R, C), float32, float16 or bfloat16; class 0 is the background
    box_deltas: Tensor,  # (N * R, 4 C) of that type, class by class as (dx, dy, dw, dh)
    *,
    box_weights: Sequence[float],
    max_log_scale: float,
    score_threshold: float,
    iou_threshold: float,
    min_size: float,
    max_detections: int,
) -> PaddedDetections:
    """Select detections, as ``RoIHeads.postprocess_detections`` of torchvision does; attributes as in the spec."""
    (images, per_image), classes = rois.shape[:2], class_logits.shape[-1]
    # without the background, class 0: (N, R, C - 1, ...)
    scores = class_logits.float().softmax(-1).reshape(images, per_image, classes)[..., 1:]
    deltas = box_deltas.float().reshape(images, per_image, classes, 4)[:, :, 1:]
    boxes = clip(decode(deltas, rois[:, :, None], box_weights, max_log_scale), image_sizes)
    is_roi = (rois[..., 2] >= rois[..., 0])[..., None]
    is_candidate = is_roi & (scores > score_threshold) & is_larger(boxes, min_size)

    class_boxes, class_scores, are_candidates = (
        tensor.transpose(1, 2).flatten(0, 1) for tensor in (boxes, scores, is_candidate)
    )
    kept_of_class = keep_best(class_boxes, class_scores, are_candidates, iou_threshold)
    kept = kept_of_class.reshape(images, classes - 1, per_image).transpose(1, 2)
    flat_scores, flat_boxes = torch.where(kept, scores, -1.0).flatten(1), boxes.flatten(1, 2)
    best_scores, best = flat_scores.sort(dim=1, descending=True, stable=True)

    found = PaddedDetections(
        num_detections=(best_scores[:, :max_detections] >= 0).sum(1, dtype=torch.int32),
        boxes=rois.new_zeros((images, max_detections, 4)),
        scores=rois.new_zeros((images, max_detections)),
        labels=torch.zeros((images, max_detections), dtype=torch.int32, device=rois.device),
    )
    for i, count in enumerate(found.num_detections.tolist()):
        found.boxes[i, :count] = flat_boxes[i, best[i, :count]]
        found.scores[i, :count] = best_scores[i, :count]
        found.labels[i, :count] = (best[i, :count] % (classes - 1) + 1).to(torch.int32)
    return found
