"""Models that can be exported, and those that cannot, with the part and the reason."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.families import build
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet

from frcnn.errors import UnsupportedModelError
from frcnn.exporter import export_onnx
from frcnn.exporter.model.supported import require_supported


def backbone() -> nn.Module:
    return build("resnet18_fpn_max").backbone


def changed(change: Callable[[FasterRCNN], None]) -> FasterRCNN:
    model = build("vgg16")
    change(model)
    return model


def with_override(part: str, method: str | None, *, on_class: bool) -> FasterRCNN:
    """Override a method of a part, in a subclass named ``Other`` or on the instance; None: an empty subclass."""

    def change(model: FasterRCNN) -> None:
        value: Any = operator.attrgetter(part)(model) if part else model
        if on_class:
            value.__class__ = type("Other", (type(value),), {method: lambda *args: None} if method else {})
        else:
            object.__setattr__(value, method, lambda *args: None)

    return changed(change)


@pytest.mark.parametrize("on_class", [True, False])
@pytest.mark.parametrize(
    ("part", "method", "base"),
    [
        ("", "forward", "GeneralizedRCNN"),
        ("transform", "postprocess", "GeneralizedRCNNTransform"),
        ("transform", "resize", "GeneralizedRCNNTransform"),
        ("rpn", "filter_proposals", "RegionProposalNetwork"),
        ("rpn.anchor_generator", "grid_anchors", "AnchorGenerator"),
        ("rpn.box_coder", "decode_single", "BoxCoder"),
        ("roi_heads", "postprocess_detections", "RoIHeads"),
        ("roi_heads.box_coder", "decode", "BoxCoder"),
    ],
)
def test_an_overridden_method_that_the_export_reimplements_is_refused(part, method, base, on_class):
    name = "Other" if on_class else r"\w+"
    message = rf"^{re.escape(part or 'model')}: {name} changes {base}\.{method}\(\)"
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        require_supported(with_override(part, method, on_class=on_class))
    assert caught.value.hint


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mask": (lambda: MaskRCNN(backbone(), 3).eval(), r"roi_heads\.mask_head: mask heads .* MaskRCNN"),
    "keypoint": (
        lambda: KeypointRCNN(backbone(), 2).eval(),
        r"roi_heads\.keypoint_head: keypoint heads .* KeypointRCNN",
    ),
    "retina": (lambda: RetinaNet(backbone(), 3).eval(), r"expected a torchvision FasterRCNN, got .*\.RetinaNet \("),
    "module": (lambda: nn.Linear(2, 3), r"expected a torchvision FasterRCNN, got torch\.nn\.modules\.linear\.Linear"),
    "training": (lambda: build("vgg16").train(), r"^the model is in training mode"),
    "a part in training": (
        lambda: changed(lambda model: model.rpn.train()),
        r"^rpn is in training mode",
    ),
    "pooler": (
        lambda: with_override("roi_heads.box_roi_pool", None, on_class=True),
        r"roi_heads\.box_roi_pool: .*\.Other \(",
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
def test_an_unsupported_part_is_named(what, tmp_path):
    make, message = REFUSED[what]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        export_onnx(make(), tmp_path / "model.onnx")
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrap", "attribute"),
    [
        (nn.DataParallel, "module"),
        (torch.compile, "_orig_mod"),
        (
            lambda model: nn.ModuleDict({"teacher": nn.Linear(2, 3), "student": nn.DataParallel(model)}),
            "student.module",
        ),
    ],
)
def test_the_attribute_that_holds_the_detector_is_named(wrap, attribute):
    with pytest.raises(UnsupportedModelError, match="expected a torchvision FasterRCNN") as caught:
        require_supported(wrap(build("vgg16")))
    assert caught.value.hint == f"the detector is its attribute {attribute}: give that, model.{attribute}"


def test_a_subclass_with_new_methods_only_is_supported():
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
