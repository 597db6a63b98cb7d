from __future__ import annotations

import pytest
import torch
from maintenance.noise import network_detections
from support.exports import calibrated
from support.families import FAMILIES
from support.images import LANDSCAPE, network_input
from torch import nn
from torchvision.ops import FrozenBatchNorm2d


@pytest.mark.parametrize("family", FAMILIES)
def test_calibrated_weights_give_many_detections_whose_scores_spread(family, exports):
    model, spec = exports.model(family), exports.spec(family)
    images, sizes = network_input(model, spec, LANDSCAPE)
    found = network_detections(model, spec, images, sizes)
    scores = torch.cat([torch.from_numpy(d.scores.copy()) for d in found])
    assert len(scores) > 20
    assert float(scores.std()) > 0.01
    assert len(scores.unique()) > 0.8 * len(scores)


def test_calibration_is_repeatable():
    first, second = calibrated("vgg16").state_dict(), calibrated("vgg16").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_normalisation_statistics_are_those_of_the_images(exports):
    model, spec = exports.model("resnet50_fpn_v2"), exports.spec("resnet50_fpn_v2")
    images, _ = network_input(model, spec, LANDSCAPE)
    seen: list[torch.Tensor] = []
    modules = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    hooks = [
        m.register_forward_hook(lambda m, args, y: seen.append((y - m.bias[:, None, None]).std())) for m in modules
    ]
    with torch.no_grad():
        model.backbone(images)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(modules)
    assert float(torch.stack(seen).min()) > 0.3 and float(torch.stack(seen).max()) < 3
