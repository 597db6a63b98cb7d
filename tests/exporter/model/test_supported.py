from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.families import FAMILIES, build
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from frcnn.errors import UnsupportedModelError
from frcnn.exporter import MultiScaleRoIPool, export_onnx
from frcnn.exporter.model.supported import require_supported


def backbone() -> nn.Module:
    return build("resnet18_fpn_max").backbone


class OtherTransform(GeneralizedRCNNTransform):
    def postprocess(self, *args: Any) -> Any:
        return super().postprocess(*args)


class OtherModel(FasterRCNN):
    def forward(self, images: Any, targets: Any = None) -> Any:
        return super().forward([image / 2 for image in images], targets)


class OtherPooler(MultiScaleRoIAlign):
    def forward(self, *args: Any) -> Any:
        return super().forward(*args) * 2


class OtherPool(MultiScaleRoIPool):
    pass


class SoftNMSHeads(RoIHeads):
    def postprocess_detections(self, *args: Any) -> Any:
        return super().postprocess_detections(*args)


class OtherProposals(RegionProposalNetwork):
    def filter_proposals(self, *args: Any) -> Any:
        return super().filter_proposals(*args)


class OtherAnchors(AnchorGenerator):
    def grid_anchors(self, *args: Any) -> Any:
        return super().grid_anchors(*args)


class OtherCoder(BoxCoder):
    def decode_single(self, *args: Any) -> Any:
        return super().decode_single(*args)


def changed(change: Callable[[FasterRCNN], None]) -> FasterRCNN:
    model = build("vgg16")
    change(model)
    return model


def with_class(part: str, cls: type) -> FasterRCNN:
    """Turn a part of a model into a subclass, in place."""

    def change(model: FasterRCNN) -> None:
        value: Any = model
        for name in filter(None, part.split(".")):
            value = getattr(value, name)
        value.__class__ = cls

    return changed(change)


def with_method(part: str, method: str) -> FasterRCNN:
    """Put another function on an instance."""

    def change(model: FasterRCNN) -> None:
        value: Any = model
        for name in filter(None, part.split(".")):
            value = getattr(value, name)
        object.__setattr__(value, method, lambda *args: None)

    return changed(change)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mask": (lambda: MaskRCNN(backbone(), 3).eval(), r"roi_heads\.mask_head: mask heads .* MaskRCNN"),
    "keypoint": (
        lambda: KeypointRCNN(backbone(), 2).eval(),
        r"roi_heads\.keypoint_head: keypoint heads .* KeypointRCNN",
    ),
    "retina": (lambda: RetinaNet(backbone(), 3).eval(), r"expected a torchvision FasterRCNN, got .*\.RetinaNet \("),
    "module": (lambda: nn.Linear(2, 3), r"expected a torchvision FasterRCNN, got torch\.nn\.modules\.linear\.Linear"),
    "training": (lambda: build("vgg16").train(), r"training mode"),
    "model": (lambda: with_class("", OtherModel), r"model: OtherModel changes GeneralizedRCNN\.forward\(\)"),
    "transform": (
        lambda: with_class("transform", OtherTransform),
        r"transform: OtherTransform changes GeneralizedRCNNTransform\.postprocess\(\)",
    ),
    "rpn": (lambda: with_class("rpn", OtherProposals), r"rpn: OtherProposals changes .*filter_proposals\(\)"),
    "anchors": (
        lambda: with_class("rpn.anchor_generator", OtherAnchors),
        r"rpn\.anchor_generator: OtherAnchors changes AnchorGenerator\.grid_anchors\(\)",
    ),
    "coder": (
        lambda: with_class("rpn.box_coder", OtherCoder),
        r"rpn\.box_coder: OtherCoder changes BoxCoder\.dec",
    ),
    "heads": (
        lambda: with_class("roi_heads", SoftNMSHeads),
        r"roi_heads: SoftNMSHeads changes RoIHeads\.post",
    ),
    "head coder": (lambda: with_class("roi_heads.box_coder", OtherCoder), r"roi_heads\.box_coder: OtherCoder"),
    "pooler": (lambda: with_class("roi_heads.box_roi_pool", OtherPooler), r"roi_heads\.box_roi_pool: .*OtherPooler"),
    "max pooler": (
        lambda: with_class("roi_heads.box_roi_pool", OtherPool),
        r"roi_heads\.box_roi_pool: .*\.OtherPool \(",
    ),
    "patched method": (lambda: with_method("transform", "resize"), r"transform: .* changes .*\.resize\(\)"),
    "patched postprocess": (
        lambda: with_method("roi_heads", "postprocess_detections"),
        r"roi_heads: .*post",
    ),
    "another transform": (
        lambda: changed(lambda model: setattr(model, "transform", nn.Identity())),
        r"transform: expected torchvision's GeneralizedRCNNTransform, got Identity",
    ),
    "another rpn": (
        lambda: changed(lambda model: setattr(model, "rpn", nn.Identity())),
        r"rpn: expected torchvision's RegionProposalNetwork, got Identity",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_deployable_form_is_refused_by_name(what, tmp_path):
    make, message = REFUSED[what]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        export_onnx(make(), tmp_path / "model.onnx")
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_supported(family):
    model = build(family)
    assert require_supported(model) is model


def test_a_subclass_that_changes_nothing_of_ours_is_supported():
    class Mine(FasterRCNN):
        def extra(self) -> int:
            return 3

    model = changed(lambda m: setattr(m, "__class__", Mine))
    assert require_supported(model) is model


def test_custom_heads_and_predictors_are_supported():
    model = build("vgg16")
    model.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 49, 64), nn.GELU())
    assert require_supported(model) is model
    assert torch.is_tensor(model.roi_heads.box_head(torch.zeros(1, 64, 7, 7)))
