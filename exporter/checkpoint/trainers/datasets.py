"""Names of the classes of COCO and Pascal VOC, by the names that Detectron2 gives the datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from frcnn.spec import BACKGROUND

_WEIGHTS: Final = {
    r"coco_20\d\d_.*": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,  # its names are by COCO's ids, some of which are unused
    r"voc_20\d\d_.*": DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
}


def class_names(datasets: Sequence[object], classes: int) -> tuple[str, ...] | None:
    """Return the names without the background, if all datasets are of one kind that has as many classes."""
    for pattern, weights in _WEIGHTS.items():
        if datasets and all(isinstance(name, str) and re.fullmatch(pattern, name) for name in datasets):
            names = tuple(name for name in weights.meta["categories"] if name not in (BACKGROUND, "N/A"))
            return names if len(names) == classes else None
    return None
