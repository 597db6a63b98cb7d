"""The whole detector, after ``torchvision.models.detection.generalized_rcnn`` without its transform."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.exporter.model.fold import fold_batchnorm
from frcnn.exporter.model.networks import BoxNetwork, FeatureNetwork, luma
from frcnn.exporter.model.spec_from_model import image_channels
from frcnn.exporter.model.stages import read_stages
from frcnn.plugins.box_detections.reference import PaddedDetections
from frcnn.spec import ModelSpec, Precision

_DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class DeployableFasterRCNN(nn.Module):
    """A Faster R-CNN as two networks and three operators, all inputs and outputs tensors of fixed shape.

    The torchvision model is copied; its weights are shared. ``precision`` is that of the networks; proposals, softmax,
    scores and IoU are always float32.
    """

    def __init__(self, model: GeneralizedRCNN, spec: ModelSpec, precision: Precision = "fp32") -> None:
        super().__init__()
        shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
        shared |= {id(buffer): buffer.detach() for buffer in model.buffers()}
        # eval() again: a copy of torchvision's feature extractor returns to its training graph
        model = copy.deepcopy(model, shared).cpu().float().eval().requires_grad_(False)
        fold_batchnorm(model, spec)
        pooler, heads = spec.roi_heads.pooler, model.roi_heads
        self.dtype = _DTYPES[precision]
        if image_channels(model) == 1:
            model.backbone.register_forward_pre_hook(luma)
        self.features = FeatureNetwork(model.backbone, model.rpn.head, pooler.feature_names, self.dtype)
        self.boxes = BoxNetwork(heads.box_head, heads.box_predictor, self.dtype)
        # (channels, height, width) of a pooled map
        self.pooled_shape = (int(model.backbone.out_channels), *pooler.output_size)
        self.stages = read_stages(model, pooler)
        self.eval()

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """Detect objects.

        Args:
            images: (N, 3, H, W) of the type of ``precision``, normalised, padded with 0 on the right and below.
            image_sizes: (N, 2) int32, (height, width) of each resized image on its canvas.
        """
        objectness, deltas, features = self.features(images)
        rois = self.stages.proposals(image_sizes, images, objectness, deltas)
        class_logits, box_deltas = self.boxes(self.stages.pooling(rois, features))
        found: PaddedDetections = self.stages.detections(rois, image_sizes, class_logits, box_deltas)
        return found
