"""Random weights that behave: a stand-in for a trained model where none can be had.

A freshly initialised detector saturates: its scores tie and its boxes coincide, and a comparison proves nothing. Here
batch normalisation is calibrated on the images at hand and the last layers are scaled, so that objectness, class
scores and box deltas spread as a trained model's do. Speed and numerical noise are then realistic; accuracy is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

_OBJECTNESS_STD = 2.0
_CLASS_LOGIT_STD = 1.5


@torch.no_grad()
def calibrate(
    model: GeneralizedRCNN, images: Sequence[Tensor], *, seed: int = 0, delta_std: float = 0.3
) -> GeneralizedRCNN:
    """Give a model calibrated random weights, in place.

    Args:
        model: in eval mode; its weights are replaced where they are normalisation statistics or prediction layers.
        images: (3, H, W) float32 in [0, 1]; two or three are enough.
        seed: of the prediction layers.
        delta_std: of the RPN's box deltas; the box head's, which torchvision divides by 5 and 10, have 5 times that.

    Returns:
        the same model.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, _ = model.transform(list(images))
    for module in _predictors(model):
        for parameter in module.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    _calibrate_normalisation(model, lambda: model.backbone(batch.tensors))
    features = model.backbone(batch.tensors)
    features = {"0": features} if isinstance(features, Tensor) else features

    objectness, deltas = model.rpn.head(list(features.values()))
    logits, box_deltas = _predictors_of_rpn(model)
    _rescale(logits, torch.cat([o.flatten() for o in objectness]), _OBJECTNESS_STD)
    _rescale(box_deltas, torch.cat([d.flatten() for d in deltas]), delta_std)

    proposals, _ = model.rpn(batch, features)
    pooled = model.roi_heads.box_roi_pool(features, proposals, batch.image_sizes)
    _calibrate_normalisation(model.roi_heads.box_head, lambda: model.roi_heads.box_head(pooled))
    class_logits, box_regression = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    predictor = model.roi_heads.box_predictor
    _rescale(predictor.cls_score, class_logits, _CLASS_LOGIT_STD)
    _rescale(predictor.bbox_pred, box_regression, delta_std * 5)
    return model


def _predictors_of_rpn(model: GeneralizedRCNN) -> tuple[nn.Module, nn.Module]:
    return model.rpn.head.cls_logits, model.rpn.head.bbox_pred


def _predictors(model: GeneralizedRCNN) -> list[nn.Module]:
    predictor = model.roi_heads.box_predictor
    return [*_predictors_of_rpn(model), predictor.cls_score, predictor.bbox_pred]


def _rescale(layer: nn.Module, outputs: Tensor, std: float) -> None:
    """Scale and shift a linear layer so that its outputs have mean 0 and the given standard deviation."""
    scale = std / float(outputs.std().clamp(min=1e-12))
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    weight.mul_(scale)
    bias.sub_(outputs.mean()).mul_(scale)


def _calibrate_normalisation(root: nn.Module, run: Callable[[], object]) -> None:
    """Set every batch normalisation's statistics to those of the tensors it sees, in the order they are seen."""

    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
        module.running_mean.copy_(mean)
        module.running_var.copy_(var.clamp(min=1e-3))

    hooks = [
        module.register_forward_pre_hook(observe)
        for module in root.modules()
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
