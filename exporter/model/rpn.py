"""Region proposals, after ``torchvision.models.detection.rpn`` and ``anchor_utils``, padded to a fixed number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork

from frcnn.exporter.model.boxes import clip, decode, float32_floor, is_larger
from frcnn.exporter.model.operators import divide, nms

__all__ = ["ABSENT_ROI", "ProposalStage"]

ABSENT_ROI = (0.0, 0.0, -1.0, -1.0)
"""Padding of the proposals: x2 < x1, which the pooling operators skip."""


class ProposalStage(nn.Module):
    """Predict the best R proposals of each image from its feature maps.

    Only the k best candidates per level are decoded. Their anchors are computed from their indices, so there is no
    table of all anchors and the canvas may have any size.
    """

    cell_anchors: list[Tensor]

    def __init__(self, rpn: RegionProposalNetwork) -> None:
        super().__init__()
        self.head = rpn.head
        self.num_levels = len(rpn.anchor_generator.cell_anchors)
        for level, cell_anchors in enumerate(rpn.anchor_generator.cell_anchors):
            self.register_buffer(f"cell_anchors_{level}", cell_anchors.float().cpu(), persistent=False)
        self.weights = tuple(float(w) for w in rpn.box_coder.weights)
        self.max_log_scale = float(rpn.box_coder.bbox_xform_clip)
        self.pre_nms_top_n = int(rpn.pre_nms_top_n())
        self.post_nms_top_n = int(rpn.post_nms_top_n())
        self.iou_threshold = float32_floor(rpn.nms_thresh)
        self.score_thresh = float(rpn.score_thresh)
        self.min_size = float(rpn.min_size)

    def forward(self, features: Sequence[Tensor], canvas: tuple[int, int], image_sizes: Tensor) -> Tensor:
        """Predict proposals.

        Args:
            features: L maps (N, channels, Hᵢ, Wᵢ).
            canvas: (H, W) of the padded images.
            image_sizes: (N, 2) float32, (height, width) of each resized image.

        Returns:
            (N, R, 4) float32, as (x1, y1, x2, y2) in canvas pixels, best first; padded with ``ABSENT_ROI``.
        """
        objectness, deltas = self.head(list(features))
        levels = [self._candidates(level, objectness[level], deltas[level], canvas) for level in range(self.num_levels)]
        maximum = max(scores.shape[1] for _, scores in levels)
        boxes = torch.stack([_pad(level_boxes, maximum, 0.0) for level_boxes, _ in levels], dim=1)
        scores = torch.stack([_pad(level_scores, maximum, -1.0) for _, level_scores in levels], dim=1)

        boxes = clip(boxes, image_sizes)
        is_candidate = is_larger(boxes, self.min_size) & (scores >= self.score_thresh)
        scores = torch.where(is_candidate, scores, -1.0)

        kept = nms(boxes.flatten(0, 1), scores.flatten(0, 1), self.iou_threshold)
        kept = kept.reshape(-1, self.num_levels * maximum)
        best_scores, best = kept.topk(min(self.post_nms_top_n, self.num_levels * maximum), dim=1)
        proposals = _take(boxes.flatten(1, 2), best)
        return torch.where((best_scores >= 0)[..., None], proposals, proposals.new_tensor(ABSENT_ROI))

    def _candidates(
        self, level: int, objectness: Tensor, deltas: Tensor, canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the best boxes (N, k, 4) and scores (N, k) of a level, float32; padding has score -1.

        ``objectness`` (N, A, Hᵢ, Wᵢ) are logits, ``deltas`` are (N, 4A, Hᵢ, Wᵢ), and the canvas is (H, W).
        """
        cell_anchors: Tensor = getattr(self, f"cell_anchors_{level}")
        anchors_per_cell = cell_anchors.shape[0]
        height, width = objectness.shape[-2:]
        logits = objectness.permute(0, 2, 3, 1).flatten(1).float()  # ONNX's TopK takes no bfloat16 before opset 24
        count = height * width * anchors_per_cell

        is_fixed = type(count) is int  # a symbol while exporting for any canvas
        if is_fixed:
            top_logits, index = logits.topk(min(self.pre_nms_top_n, count), dim=1)
        else:  # a level may have fewer than top_n anchors: pad, and mark what is none
            padding = logits.new_full((1, self.pre_nms_top_n), -torch.inf).expand(logits.shape[0], -1)
            top_logits, padded_index = torch.cat([logits, padding], dim=1).topk(self.pre_nms_top_n, dim=1)
            index = padded_index.clamp(max=count - 1)

        cell = divide(index, anchors_per_cell)
        row = divide(cell, width)
        column, anchor = cell - row * width, index - cell * anchors_per_cell
        shift = torch.stack([column * (canvas[1] // width), row * (canvas[0] // height)], dim=-1).float()
        anchors = torch.cat([shift, shift], dim=-1) + cell_anchors[anchor]

        all_deltas = deltas.unflatten(1, (anchors_per_cell, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        boxes = decode(_take(all_deltas, index).float(), anchors, self.weights, self.max_log_scale)
        scores = top_logits.sigmoid()
        if not is_fixed:
            scores = torch.where(padded_index < count, scores, -1.0)
        return boxes, scores


def _take(boxes: Tensor, index: Tensor) -> Tensor:
    """Return ``boxes[n, index[n]]``: (N, M, 4) and (N, k) int64 to (N, k, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def _pad(values: Tensor, length: int, value: float) -> Tensor:
    """Pad axis 1 to ``length`` with ``value``."""
    missing = length - values.shape[1]
    if missing == 0:
        return values
    shape = (values.shape[0], missing, *values.shape[2:])
    return torch.cat([values, values.new_full(shape, value)], dim=1)
