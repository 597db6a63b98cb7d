"""Reference of RegionProposals in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from frcnn.plugins.boxes.reference import clip, decode, is_larger, keep_best
from frcnn.plugins.region_proposals.spec import strides_of_levels

ABSENT_ROI = (0.0, 0.0, -1.0, -1.0)
"""Padding of the proposals: x2 < x1."""


def region_proposals(
    image_sizes: Tensor,  # (N, 2) int32, (height, width) of each resized image
    images: Tensor,  # (N, 3, H, W) of any type; only the canvas is read off it
    objectness: Sequence[Tensor],  # L logits (N, A, Hᵢ, Wᵢ), float32, float16 or bfloat16
    deltas: Sequence[Tensor],  # L times (N, 4 A, Hᵢ, Wᵢ) of that type, anchor by anchor as (dx, dy, dw, dh)
    *,
    anchors: Sequence[float],
    strides: Sequence[float],
    box_weights: Sequence[float],
    max_log_scale: float,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    iou_threshold: float,
    score_threshold: float,
    min_size: float,
) -> Tensor:
    """Select proposals, as ``RegionProposalNetwork.filter_proposals`` of torchvision does; attributes as in the spec.

    Returns:
        (N, R, 4) float32, as (x1, y1, x2, y2) in canvas pixels, best first, padded with ``ABSENT_ROI``.
    """
    rows = torch.tensor(anchors, dtype=torch.float32, device=images.device).reshape(-1, 5)
    canvas = (images.shape[2], images.shape[3])
    boxes, scores, candidates = [], [], []
    of_levels = zip(objectness, deltas, strides_of_levels(strides, len(objectness)), strict=True)
    for level, (level_objectness, level_deltas, stride) in enumerate(of_levels):
        cell_anchors = rows[rows[:, 0] == level, 1:]
        height, width = level_objectness.shape[-2:]
        steps = (stride or canvas[0] // height, stride or canvas[1] // width)
        logits, level_boxes = _candidates(
            level_objectness, level_deltas, cell_anchors, steps, box_weights, max_log_scale, pre_nms_top_n
        )
        boxes.append(clip(level_boxes, image_sizes))
        scores.append(logits.sigmoid())
        is_candidate = (logits > -torch.inf) & (scores[-1] >= score_threshold) & is_larger(boxes[-1], min_size)
        candidates.append(is_candidate)

    kept = []
    for level_boxes, is_candidate in zip(boxes, candidates, strict=True):
        order = -torch.arange(level_boxes.shape[1], device=images.device).float().expand(len(images), -1)
        kept.append(keep_best(level_boxes, order, is_candidate, iou_threshold))
    all_boxes, all_scores = torch.cat(boxes, dim=1), torch.where(torch.cat(kept, dim=1), torch.cat(scores, dim=1), -1.0)
    count = min(post_nms_top_n, len(objectness) * pre_nms_top_n)
    best_scores, best = all_scores.sort(dim=1, descending=True, stable=True)
    rois = all_boxes.new_tensor(ABSENT_ROI).repeat(len(images), count, 1)
    for image_rois, image_boxes, image_scores, order in zip(rois, all_boxes, best_scores, best, strict=True):
        found = order[image_scores >= 0][:count]
        image_rois[: len(found)] = image_boxes[found]
    return rois


def _candidates(
    objectness: Tensor,
    deltas: Tensor,
    cell_anchors: Tensor,
    steps: tuple[int, int],  # pixels between rows, between columns
    box_weights: Sequence[float],
    max_log_scale: float,
    top_n: int,
) -> tuple[Tensor, Tensor]:
    """Return the logits (N, k), -inf where absent, and the boxes (N, k, 4) of the best candidates of a level."""
    per_cell, width = len(cell_anchors), objectness.shape[-1]
    logits = objectness.permute(0, 2, 3, 1).flatten(1).float()
    logits = torch.where(logits.isnan(), -torch.inf, logits)
    best_logits, index = (sorted_[:, :top_n] for sorted_ in logits.sort(dim=1, descending=True, stable=True))

    cell, anchor = index // per_cell, index % per_cell
    row, column = cell // width, cell % width
    shift = torch.stack([column * steps[1], row * steps[0]], dim=-1).float()
    boxes_at = torch.cat([shift, shift], dim=-1) + cell_anchors[anchor]
    all_deltas = deltas.unflatten(1, (per_cell, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float()
    chosen = all_deltas.gather(1, index[..., None].expand(-1, -1, 4))
    return best_logits, decode(chosen, boxes_at, box_weights, max_log_scale)
