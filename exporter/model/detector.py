"""The whole network, after ``torchvision.models.detection.generalized_rcnn`` without its transform."""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.exporter.model.fold import fold_batchnorm
from frcnn.exporter.model.roi_heads import DetectionStage, PaddedDetections
from frcnn.exporter.model.rpn import ProposalStage
from frcnn.spec import ModelSpec, Precision

__all__ = ["DeployableFasterRCNN"]

_DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class DeployableFasterRCNN(nn.Module):
    """A Faster R-CNN whose inputs and outputs are tensors of fixed shape, for export.

    Args:
        model: the torchvision model, which is copied.
        spec: its description.
        precision: of backbone, FPN, RPN head, box head and predictor; decoding, softmax, scores and IoU are always
            float32.
    """

    def __init__(self, model: GeneralizedRCNN, spec: ModelSpec, precision: Precision = "fp32") -> None:
        super().__init__()
        # eval() again: a copy of torchvision's feature extractor returns to its training graph
        model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        fold_batchnorm(model, spec)
        self.backbone = model.backbone
        self.rpn = ProposalStage(model.rpn)
        self.roi_heads = DetectionStage(model.roi_heads, spec.roi_heads.pooler)
        self.feature_names = spec.roi_heads.pooler.feature_names
        self.dtype = _DTYPES[precision]
        for part in (self.backbone, self.rpn.head, self.roi_heads.box_head, self.roi_heads.box_predictor):
            part.to(self.dtype)
        self.eval()

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """Detect objects.

        Args:
            images: (N, 3, H, W) of the type of ``precision``, normalised, padded with 0 on the right and below.
            image_sizes: (N, 2) int32, (height, width) of each resized image on its canvas.
        """
        maps = self.backbone(images)
        features: dict[str, Tensor] = {"0": maps} if isinstance(maps, Tensor) else maps
        sizes = image_sizes.float()
        proposals = self.rpn(list(features.values()), (images.shape[2], images.shape[3]), sizes)
        pooled_maps = [features[name] for name in self.feature_names]
        detections: PaddedDetections = self.roi_heads(pooled_maps, proposals, sizes)
        return detections
