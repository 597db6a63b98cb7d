"""Folding batch normalisation changes no answer, and is not done where it would."""

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

from frcnn.exporter.model import DeployableFasterRCNN
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
def test_families_answer_the_same_with_nothing_left_to_fold(family, exports):
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


def test_families_have_something_to_fold(exports):
    counts = {family: len(normalisations(exports.model(family))) for family in FAMILIES}
    # resnet50_c4: stem 1, four blocks of 4 with their shortcuts; _v2 adds 8 in the pyramid and 2 in the box head
    assert counts["resnet50_c4"] == counts["resnet50_fpn"] == 17
    assert counts["resnet50_fpn_v2"] == 17 + 8 + 2
    assert counts["mobilenet_v3_large_fpn"] > 30


def test_the_users_model_is_left_as_it_is(exports):
    model, spec = exports.model("resnet50_fpn_v2"), exports.spec("resnet50_fpn_v2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [type(m) for m in model.modules()]
    DeployableFasterRCNN(model, spec, "fp16")
    assert [type(m) for m in model.modules()] == modules
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not model.training
    assert all(p.requires_grad for p in model.roi_heads.parameters())


class Body(nn.Module):
    """A backbone of one map of stride 16 and 8 channels, for odd ways to use a normalisation."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=16, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)


class Plain(Body):
    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(self.stem(x))).relu()


class NoBias(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)


class NoAffine(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8, affine=False, eps=0.1)


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.bn = FrozenBatchNorm2d(8, eps=0.1)


class PairUsedTwice(Body):
    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(self.bn(self.conv(self.stem(x)))))


class Functional(Body):
    def forward(self, x: Tensor) -> Any:
        return torch.relu_(self.bn(self.conv(torch.relu_(self.stem(x)))))


class Aliased(Plain):
    """The normalisation has two names, and is called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = self.bn

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(self.stem(x)))


class OutputUsedTwice(Body):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(self.stem(x))
        return self.bn(y) + y


class OutputAlsoReturned(Body):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(self.stem(x))
        return {"0": self.bn(y), "1": y}


class OutputOfItsOwnReturned(Body):
    """The convolution runs twice, once for the normalisation and once for the output."""

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        return {"0": self.bn(self.conv(y)), "1": self.conv(y)}


class OutputUsedByAView(Body):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(self.stem(x))
        return self.bn(y) + y[:, :, :1]


class ChangedInPlace(Body):
    def forward(self, x: Tensor) -> Any:
        return self.bn(torch.relu_(self.conv(self.stem(x))))


class ReluBetween(Body):
    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(self.stem(x)).relu())


class TwoNormalisations(Body):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        return self.bn(self.conv(y)) + self.other(self.conv(y * 2))


class TwoConvolutions(Body):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        return self.bn(self.conv(y)) + self.bn(y)


class SharedWeight(Body):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(8, 8, 3, padding=1, dilation=1)
        self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        return self.bn(self.conv(y)) + self.other(y)


class NoRunningStatistics(Body):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(self.stem(x)))


class Transposed(Body):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(self.stem(x)))


class OwnConvolution(Body):
    """A convolution that computes something else than its class."""

    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * x.mean()

    def __init__(self) -> None:
        super().__init__()
        self.conv = self.Scaled(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(self.stem(x)))


FOLDED = (Plain, NoBias, NoAffine, Frozen, PairUsedTwice, Functional, Aliased)
KEPT = (
    OutputUsedTwice,
    OutputAlsoReturned,
    OutputOfItsOwnReturned,
    OutputUsedByAView,
    ChangedInPlace,
    ReluBetween,
    TwoNormalisations,
    TwoConvolutions,
    SharedWeight,
    NoRunningStatistics,
    Transposed,
    OwnConvolution,
)


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


@pytest.mark.parametrize("make", [*FOLDED, *KEPT], ids=lambda make: make.__name__)
def test_a_backbone_answers_the_same_and_is_folded_only_where_it_may_be(make):
    model = detector(make)
    folded = copy.deepcopy(model)
    count = fold_batchnorm(folded, read_model_spec(model))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert_equal_maps(folded.backbone(images), model.backbone(images))
    assert count == (1 if make in FOLDED else 0)


def test_folding_is_exact_where_float64_is_needed():
    model = detector(Plain)
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
