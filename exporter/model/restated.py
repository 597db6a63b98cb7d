"""torchvision's parts with the arithmetic of Detectron2 and MMDetection, where it differs from torchvision's.

A ``FasterRCNN`` of these parts restates the model of another trainer: its eager form is what the trainer computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align, roi_pool

from frcnn.plugins.roi_pooling.level_boundaries import NEVER, level_thresholds
from frcnn.spec import PoolerKind, TransformSpec

MIN_PROPOSAL_SIZE: Final = 1e-30
"""Least side in pixels of a box that has an area, as Detectron2 and MMDetection's RPN want it."""

MIN_BOX_SIZE: Final = {"detectron2": MIN_PROPOSAL_SIZE, "mmdetection": 0.0}
"""Least side in pixels of a detection, by trainer: MMDetection keeps those without an area."""

_LEVEL_OF_SIDE: Final[dict[str, Callable[[Tensor, float], Tensor]]] = {
    # assign_boxes_to_levels of detectron2/modeling/poolers.py: 224 pixels are level 4, the finest map is level 2
    "detectron2": lambda side, finest: torch.floor(4 + torch.log2(side / (2 * finest) + 1e-8)) - 2,
    # map_roi_levels of mmdet/models/roi_heads/roi_extractors/single_level_roi_extractor.py
    "mmdetection": lambda side, finest: torch.floor(torch.log2(side / (finest / 2) + 1e-6)),
}


class RestatedTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision is untyped
    """Resizes 8-bit pixels as the trainer does, then normalises them, in place of the other way round.

    Args:
        spec: sizes, mean and standard deviation of RGB in [0, 1], and whose rule of resizing holds.
    """

    def __init__(self, spec: TransformSpec) -> None:
        fixed = None if spec.fixed_size is None else (spec.fixed_size[1], spec.fixed_size[0])
        super().__init__(
            spec.min_size,
            spec.max_size,
            list(spec.image_mean),
            list(spec.image_std),
            size_divisible=spec.size_divisible,
            fixed_size=fixed,
        )
        self.spec = spec

    def normalize(self, image: Tensor) -> Tensor:
        """Return the image (3, H, W) as it is: it is normalised after resizing."""
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize and normalise an image (3, H, W) of [0, 1], which is rounded to 8 bits."""
        pixels = (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        size = self.spec.resized_size(*pixels.shape[:2])
        resized = torch.from_numpy(_resized(pixels, size, self.spec.resize)).to(image.device)
        return super().normalize(resized.permute(2, 0, 1).to(image.dtype) / 255), target


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int], rule: str) -> NDArray[np.uint8]:
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    if rule == "detectron2":
        rows = Image.fromarray(pixels).resize((width, pixels.shape[0]), Image.Resampling.BILINEAR)
        return np.array(rows.resize((width, height), Image.Resampling.BILINEAR))  # the order of Pillow before 13
    import cv2  # only here: the export of torchvision's models needs no OpenCV

    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


class RestatedAnchorGenerator(AnchorGenerator):  # type: ignore[misc]
    """Anchors that are given, not rounded, on cells a fixed number of pixels apart.

    Args:
        cell_anchors: for each level, (x1, y1, x2, y2) of each anchor of the cell at the origin.
        level_strides: for each level, pixels between cells.
    """

    def __init__(
        self, cell_anchors: Sequence[Sequence[tuple[float, float, float, float]]], level_strides: Sequence[int]
    ) -> None:
        super().__init__(((1,),) * len(cell_anchors), ((1.0,),) * len(cell_anchors))
        self.cell_anchors = [torch.tensor(level, dtype=torch.float32) for level in cell_anchors]
        self.level_strides = tuple(level_strides)

    def num_anchors_per_location(self) -> list[int]:
        """Return how many anchors each level has at a cell."""
        return [len(level) for level in self.cell_anchors]

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """Return the anchors of each level; ``strides``, which torchvision infers from the canvas, are not used."""
        pairs = zip(strides, self.level_strides, strict=True)
        fixed = [[torch.full_like(side, stride) for side in sides] for sides, stride in pairs]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, fixed)
        return anchors


class RestatedRoIPooler(MultiScaleRoIAlign):  # type: ignore[misc]
    """RoIAlign or RoI max pooling from the levels that the trainer assigns RoIs to.

    Args:
        featmap_names: names of the maps, finest first.
        output_size: side of the pooled grid.
        strides: pixels of the canvas between cells, for each map.
        trainer: whose rule of levels holds.
        finest_scale: side in pixels from which RoIs are pooled from the second map.
        kind: ``"align"`` or ``"max"``.
        sampling_ratio: samples of a bin's side; 0 is adaptive.
        aligned: whether samples are moved by half a pixel.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int,
        *,
        strides: Sequence[int],
        trainer: str,
        finest_scale: float,
        kind: PoolerKind = "align",
        sampling_ratio: int = 0,
        aligned: bool = True,
    ) -> None:
        super().__init__(list(featmap_names), output_size, sampling_ratio)
        self.kind: PoolerKind = kind
        self.aligned = aligned
        self.spatial_scales = tuple(1.0 / stride for stride in strides)
        self.level_thresholds = _thresholds(len(strides), _LEVEL_OF_SIDE[trainer], finest_scale)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the RoIs of every image, as ``MultiScaleRoIAlign`` does: (sum of R, C, height, width)."""
        maps = [x[name] for name in self.featmap_names]
        images = torch.cat([of_image.new_full((len(of_image), 1), i) for i, of_image in enumerate(boxes)])
        flat = torch.cat(boxes)
        rois = torch.cat([images, flat], dim=1).to(maps[0].dtype)
        sides = ((flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1])).sqrt()
        levels = torch.bucketize(sides, sides.new_tensor(self.level_thresholds[: len(maps) - 1]), right=True)
        pooled = maps[0].new_zeros((len(rois), maps[0].shape[1], *self.output_size))
        for level, (feature, scale) in enumerate(zip(maps, self.spatial_scales, strict=True)):
            here = torch.where(levels == level)[0]
            pooled[here] = self._pool(feature, rois[here], scale)
        return pooled

    def _pool(self, feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        if self.kind == "max":
            pooled: Tensor = roi_pool(feature, rois, self.output_size, scale)
        else:
            pooled = roi_align(feature, rois, self.output_size, scale, self.sampling_ratio, self.aligned)
        return pooled


def _thresholds(maps: int, rule: Callable[[Tensor, float], Tensor], finest_scale: float) -> tuple[float, ...]:
    """Return the sides at which levels 1 and up begin; one that no side reaches for a single map, as the operators."""
    if maps == 1:
        return (NEVER,)

    def level_of_side(side: float) -> int:
        level = rule(torch.tensor(side, dtype=torch.float32), finest_scale)
        return int(level.clamp(0, maps - 1))

    return level_thresholds(level_of_side, coarsest_level=maps - 1)


class RestatedRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoI heads with another least side of a detection, ``min_box_size`` in pixels."""

    min_box_size: float = MIN_BOX_SIZE["detectron2"]

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Decode, clip, threshold and suppress the boxes of each image, as torchvision's method does."""
        counts = [len(rois) for rois in proposals]
        decoded = self.box_coder.decode(box_regression, proposals)
        boxes_of_all = decoded.reshape(-1, class_logits.shape[1], 4).split(counts)  # flat where there are no proposals
        scores_of_all = class_logits.softmax(-1).split(counts)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for boxes, scores, shape in zip(boxes_of_all, scores_of_all, image_shapes, strict=True):
            boxes = clip_boxes_to_image(boxes, shape)
            sides = boxes[..., 2:] - boxes[..., :2]
            is_candidate = (scores > self.score_thresh) & (sides >= self.min_box_size).all(-1)
            is_candidate[:, 0] = False
            row, label = torch.where(is_candidate)
            kept = batched_nms(boxes[row, label], scores[row, label], label, self.nms_thresh)[: self.detections_per_img]
            row, label = row[kept], label[kept]
            found.append((boxes[row, label], scores[row, label], label))
        columns: Any = tuple(map(list, zip(*found, strict=True)))
        return columns if found else ([], [], [])
