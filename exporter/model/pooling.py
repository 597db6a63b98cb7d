"""RoI max pooling for torchvision's Faster R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_pool
from torchvision.ops.poolers import _filter_input, _setup_scales


class MultiScaleRoIPool(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision is untyped
    """Multi-scale RoI max pooling, as in Fast R-CNN (arXiv:1504.08083) and Faster R-CNN (arXiv:1506.01497).

    Applies ``torchvision.ops.roi_pool`` to one feature map, or to the map that Eq. 1 of Feature Pyramid Networks
    (arXiv:1612.03144) selects for each RoI. Pass it to a ``FasterRCNN`` as ``box_roi_pool``. It inherits from
    ``MultiScaleRoIAlign`` because ``FasterRCNN`` accepts no other class. It has no weights.

    Args:
        featmap_names: names of the feature maps to pool from, finest first.
        output_size: side, or (height, width), of the pooled grid.
        canonical_scale: side in pixels of the RoIs that ``canonical_level`` is for.
        canonical_level: level of the RoIs with side ``canonical_scale``.

    Attributes:
        scales: map size / image size for each map; inferred from the first images, as in torchvision.
        map_levels: assigns RoIs to levels; set with ``scales``.

    Example::

        FasterRCNN(backbone, num_classes=21, box_roi_pool=MultiScaleRoIPool(["0"], 7), ...)
    """

    scales: list[float] | None
    map_levels: Any

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | tuple[int, int],
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__(
            list(featmap_names),
            output_size,
            sampling_ratio=0,
            canonical_scale=canonical_scale,
            canonical_level=canonical_level,
        )

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the RoIs of every image.

        Args:
            x: feature maps by name, (N, C, Hᵢ, Wᵢ).
            boxes: for each image, (R, 4) float32 as (x1, y1, x2, y2) in pixels of the resized image.
            image_shapes: for each image, (height, width) after resizing.

        Returns:
            (sum of R, C, height, width), of the type of the feature maps, in the order of the boxes.
        """
        maps: list[Tensor] = _filter_input(x, self.featmap_names)
        if self.scales is None or self.map_levels is None:
            self.scales, self.map_levels = _setup_scales(maps, image_shapes, self.canonical_scale, self.canonical_level)
        images = torch.cat([boxes_i.new_full((len(boxes_i), 1), i) for i, boxes_i in enumerate(boxes)])
        rois = torch.cat([images, torch.cat(boxes)], dim=1)
        if len(maps) == 1:
            pooled: Tensor = roi_pool(maps[0], rois, self.output_size, self.scales[0])
            return pooled
        levels = self.map_levels(boxes)
        pooled = maps[0].new_zeros((len(rois), maps[0].shape[1], *self.output_size))
        for level, (feature, scale) in enumerate(zip(maps, self.scales, strict=True)):
            here = torch.where(levels == level)[0]
            pooled[here] = roi_pool(feature, rois[here], self.output_size, scale)
        return pooled

    def __repr__(self) -> str:
        return f"{type(self).__name__}(featmap_names={self.featmap_names}, output_size={self.output_size})"
