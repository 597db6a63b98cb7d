"""Folding batch normalisation changes no output, and is skipped where it would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.families import FAMILIES
from support.images import LANDSCAPE, network_input
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from frcnn.exporter.model.fold import fold_batchnorm
from frcnn.exporter.model.spec_from_model import read_model_spec

NORMALISATIONS = (nn.BatchNorm2d, FrozenBatchNorm2d)
RELATIVE = 1e-5


def normalisations(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, NORMALISATIONS)]


def as_maps(maps: Any) -> dict[str, Tensor]:
    return {"0": maps} if isinstance(maps, Tensor) else dict(maps)


def assert_equal_maps(found: Any, expected: Any) -> None:
    found, expected = as_maps(found), as_maps(expected)
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=RELATIVE * float(wanted.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folded_family_gives_the_same_maps_and_has_no_normalisations(family, exports):
    model, spec = exports.model(family), exports.spec(family)
    folded = copy.deepcopy(model).eval()
    before = normalisations(folded.backbone) + normalisations(folded.roi_heads.box_head)
    assert fold_batchnorm(folded, spec) == len(before)
    assert not normalisations(folded)

    images, _ = network_input(model, spec, LANDSCAPE)
    pooled = torch.randn(3, model.backbone.out_channels, *spec.roi_heads.pooler.output_size)
    with torch.no_grad():
        assert_equal_maps(folded.backbone(images), model.backbone(images))
        assert_equal_maps(folded.roi_heads.box_head(pooled), model.roi_heads.box_head(pooled))


def test_families_have_normalisations(exports):
    counts = {family: len(normalisations(exports.model(family))) for family in FAMILIES}
    # resnet50_c4: stem 1, four blocks of 4 with their shortcuts; _v2 adds 8 in the pyramid and 2 in the box head
    assert counts["resnet50_c4"] == counts["resnet50_fpn"] == 17
    assert counts["resnet50_fpn_v2"] == 17 + 8 + 2
    assert counts["mobilenet_v3_large_fpn"] > 30


class Body(nn.Module):
    """A backbone of stride 16 and 8 channels whose forward is given; ``parts`` replace or add modules."""

    out_channels = 8

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=16, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.other = nn.BatchNorm2d(8)
        for name, make in parts.items():
            setattr(self, name, make())
        self.alias = self.bn
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, self.stem(x))


class ScaledConv2d(nn.Conv2d):
    """A convolution that computes something else than its class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * x.mean()


def shared_weight(m: Any, x: Tensor) -> Tensor:
    m.other.weight = m.conv.weight
    return m.bn(m.conv(x)) + m.other(x)


def plain(m: Any, x: Tensor) -> Tensor:
    return m.bn(m.conv(x)).relu()


FOLDED: dict[str, Callable[[], Body]] = {
    "plain": lambda: Body(plain),
    "no bias": lambda: Body(plain, conv=lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)),
    "not affine": lambda: Body(plain, bn=lambda: nn.BatchNorm2d(8, affine=False, eps=0.1)),
    "frozen": lambda: Body(plain, bn=lambda: FrozenBatchNorm2d(8, eps=0.1)),
    "pair used twice": lambda: Body(lambda m, x: m.bn(m.conv(m.bn(m.conv(x))))),
    "functional relu": lambda: Body(lambda m, x: torch.relu_(m.bn(m.conv(torch.relu_(x))))),
    "called by a second name": lambda: Body(lambda m, x: m.alias(m.conv(x))),
}
KEPT: dict[str, Callable[[], Body]] = {
    "output used twice": lambda: Body(lambda m, x: m.bn(y := m.conv(x)) + y),
    "output returned too": lambda: Body(lambda m, x: {"0": m.bn(y := m.conv(x)), "1": y}),
    "convolution used without normalisation too": lambda: Body(lambda m, x: {"0": m.bn(m.conv(x)), "1": m.conv(x)}),
    "output used by a view": lambda: Body(lambda m, x: m.bn(y := m.conv(x)) + y[:, :, :1]),
    "output changed in place": lambda: Body(lambda m, x: m.bn(torch.relu_(m.conv(x)))),
    "relu between": lambda: Body(lambda m, x: m.bn(m.conv(x).relu())),
    "two normalisations": lambda: Body(lambda m, x: m.bn(m.conv(x)) + m.other(m.conv(x * 2))),
    "two convolutions": lambda: Body(lambda m, x: m.bn(m.conv(x)) + m.bn(x)),
    "shared weight": lambda: Body(shared_weight, other=lambda: nn.Conv2d(8, 8, 3, padding=1)),
    "no running statistics": lambda: Body(plain, bn=lambda: nn.BatchNorm2d(8, track_running_stats=False)),
    "transposed": lambda: Body(plain, conv=lambda: nn.ConvTranspose2d(8, 8, 3, padding=1)),
    "subclass of convolution": lambda: Body(plain, conv=lambda: ScaledConv2d(8, 8, 3, padding=1)),
}


def detector(make: Callable[[], nn.Module]) -> FasterRCNN:
    torch.manual_seed(0)
    body = make()
    for module in normalisations(body):
        if module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
        if module.weight is not None:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    maps = len(as_maps(body.eval()(torch.zeros(1, 3, 64, 64))))
    return FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(((32, 64),) * maps, ((0.5, 1.0, 2.0),) * maps),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(8 * 7 * 7, 16),
        box_predictor=FastRCNNPredictor(16, 3),
    ).eval()


@pytest.mark.parametrize("case", [*FOLDED, *KEPT])
def test_a_backbone_gives_the_same_maps_and_is_folded_only_if_that_is_exact(case):
    model = detector((FOLDED | KEPT)[case])
    folded = copy.deepcopy(model)
    count = fold_batchnorm(folded, read_model_spec(model))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert_equal_maps(folded.backbone(images), model.backbone(images))
    assert count == (case in FOLDED)


def test_folding_computes_in_float64():
    model = detector(FOLDED["plain"])
    with torch.no_grad():
        model.backbone.bn.running_var.fill_(1e-12)
        model.backbone.bn.running_mean.fill_(3.0)
    bn, conv = model.backbone.bn, model.backbone.conv
    scale = (bn.running_var.double() + bn.eps).rsqrt() * bn.weight.double()
    expected_weight = conv.weight.double() * scale[:, None, None, None]
    expected_bias = (conv.bias.double() - bn.running_mean.double()) * scale + bn.bias.double()
    folded = copy.deepcopy(model)
    fold_batchnorm(folded, read_model_spec(model))
    torch.testing.assert_close(folded.backbone.conv.weight.double(), expected_weight, rtol=1e-7, atol=0)
    torch.testing.assert_close(folded.backbone.conv.bias.double(), expected_bias, rtol=1e-6, atol=0)
