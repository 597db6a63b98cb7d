"""The description that is read from a live model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from support.families import FAMILIES, build
from support.images import LANDSCAPE, photographs, tensor
from support.operators import thresholds_of
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from frcnn.errors import UnsupportedModelError
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.plugins.roi_pooling.level_boundaries import NEVER
from frcnn.spec import PoolerSpec, RoIHeadsSpec, RPNSpec, TransformSpec

PYRAMID = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The parts of a description that differ between families."""

    scales: tuple[float, ...]
    thresholds: tuple[float, ...]
    names: tuple[str, ...] | None = None
    kind: str = "align"
    grid: tuple[int, int] = (7, 7)
    sampling: int = 2
    anchors: tuple[int, ...] = (3,) * 5
    rpn_score: float = 0.0
    classes: int = 7
    proposals: int = 100


EXPECTED = {
    "resnet50_fpn": Expected(scales=PYRAMID, thresholds=thresholds_of(4)),
    "resnet50_fpn_v2": Expected(scales=PYRAMID, thresholds=thresholds_of(4)),
    # Both pooled maps are of stride 32: torchvision's rule always takes the first.
    "mobilenet_v3_large_fpn": Expected(
        scales=(1 / 32, 1 / 32), thresholds=(NEVER,), anchors=(15, 15, 15), rpn_score=0.05
    ),
    "vgg16": Expected(scales=(1 / 16,), thresholds=(NEVER,), kind="max", sampling=0, anchors=(9,)),
    "resnet50_c4": Expected(
        scales=(1 / 16,), thresholds=(NEVER,), kind="max", sampling=0, anchors=(9,), grid=(8, 8), proposals=40
    ),
    "resnet18_fpn_max": Expected(
        scales=PYRAMID[:3], thresholds=thresholds_of(3), kind="max", sampling=0, grid=(5, 6), classes=2
    ),
    "convnext_fpn": Expected(scales=PYRAMID, thresholds=thresholds_of(4)),
    "swin_fpn": Expected(
        scales=PYRAMID[:2],
        thresholds=thresholds_of(2, canonical_scale=112, canonical_level=3),
        sampling=0,
        anchors=(3, 3, 3),
    ),
}


def test_every_family_has_an_expectation():
    assert set(EXPECTED) == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_description_of_a_family(family):
    expected = EXPECTED[family]
    spec = read_model_spec(build(family))
    assert spec.architecture == "FasterRCNN"
    assert spec.num_classes == expected.classes
    assert spec.labels is None
    assert spec.rpn == RPNSpec(
        num_levels=len(expected.anchors),
        anchors_per_location=expected.anchors,
        pre_nms_top_n=200,
        post_nms_top_n=expected.proposals,
        nms_thresh=0.7,
        score_thresh=expected.rpn_score,
    )
    assert spec.roi_heads.pooler == PoolerSpec(
        kind=expected.kind,
        feature_names=expected.names or tuple(str(i) for i in range(len(expected.scales))),
        spatial_scales=expected.scales,
        level_thresholds=expected.thresholds,
        output_size=expected.grid,
        sampling_ratio=expected.sampling,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size_divisible", [1, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pooler_equals_what_torchvision_infers_from_an_image(family, size_divisible):
    model = build(family)
    model.transform.size_divisible = size_divisible
    model([tensor(photographs(LANDSCAPE)[0])])
    pooler = read_model_spec(model).roi_heads.pooler
    live = model.roi_heads.box_roi_pool
    assert list(pooler.spatial_scales) == live.scales
    if len(live.scales) > 1:
        sides = torch.logspace(0, 3, 3000)
        boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
        levels = (sides[:, None] >= torch.tensor(pooler.level_thresholds)).sum(1)
        assert torch.equal(levels, live.map_levels([boxes]))


@pytest.mark.slow
def test_thresholds_mean_and_sizes_are_read_from_the_model():
    spec = read_model_spec(build("resnet18_fpn_max"))
    assert spec.transform == TransformSpec(
        min_size=160,
        max_size=288,
        fixed_size=None,
        size_divisible=32,
        image_mean=(0.5, 0.4, 0.3),
        image_std=(0.3, 0.2, 0.1),
    )
    assert spec.roi_heads == RoIHeadsSpec(
        pooler=spec.roi_heads.pooler, score_thresh=0.2, nms_thresh=0.3, detections_per_img=20
    )
    default = read_model_spec(build("vgg16"))
    assert (default.transform.image_mean, default.transform.image_std) == IMAGENET
    assert (default.roi_heads.score_thresh, default.roi_heads.nms_thresh) == (0.05, 0.5)


def test_changes_of_the_live_model_are_read():
    model = build("vgg16")
    model.roi_heads.score_thresh = 0.125
    model.rpn._pre_nms_top_n["testing"] = 77
    model.transform.min_size = (90, 200)  # torchvision takes the last one at inference
    spec = read_model_spec(model)
    assert (spec.roi_heads.score_thresh, spec.rpn.pre_nms_top_n, spec.transform.min_size) == (0.125, 77, 200)


def test_a_fixed_size_is_height_and_width():
    model = build("vgg16")
    model.transform.fixed_size = (320, 160)  # torchvision has width, height
    spec = read_model_spec(model)
    assert spec.transform.fixed_size == (160, 320)
    images, _ = model.transform([torch.zeros(3, 50, 60)])
    assert spec.transform.resized_size(50, 60) == images.image_sizes[0]


@pytest.mark.parametrize("labels", [("a", "b", "c", "d", "e", "f"), ("__background__", "a", "b", "c", "d", "e", "f")])
def test_labels_with_and_without_the_background(labels):
    spec = read_model_spec(build("vgg16"), labels=labels, architecture="mine")
    assert spec.labels == ("__background__", "a", "b", "c", "d", "e", "f")
    assert spec.architecture == "mine"


@pytest.mark.parametrize("size_divisible", [1, 7, 8, 48, 128])
def test_the_scales_of_all_levels_show_for_every_size_divisible(size_divisible):
    model = build("resnet18_fpn_max")
    model.transform.size_divisible = size_divisible
    assert read_model_spec(model).roi_heads.pooler.spatial_scales == PYRAMID[:3]


def test_a_stride_as_coarse_as_the_canvas_of_a_small_image_shows():
    model = build("vgg16")
    model.backbone = nn.Sequential(model.backbone, nn.Conv2d(64, 64, 3, stride=8, padding=1))
    model.backbone.out_channels = 64
    model.transform.size_divisible = 1
    assert read_model_spec(model.eval()).roi_heads.pooler.spatial_scales == (1 / 128,)


@pytest.mark.parametrize("fixed", [(320, 160), (90, 50)])
def test_the_scales_of_a_fixed_size_are_those_that_torchvision_infers(fixed):
    model = build("resnet18_fpn_max")
    model.transform.fixed_size = fixed
    model([tensor(photographs(LANDSCAPE)[0])])
    assert list(read_model_spec(model).roi_heads.pooler.spatial_scales) == model.roi_heads.box_roi_pool.scales


@pytest.mark.parametrize("values", [[0.25], (0.25,), torch.tensor([0.25])])
def test_one_value_of_mean_and_std_is_for_all_channels(values):
    model = build("vgg16")
    model.transform.image_mean = model.transform.image_std = values
    transform = read_model_spec(model).transform
    assert transform.image_mean == transform.image_std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("transform", "image_std", [0.0]),
        ("transform", "image_mean", [float("nan")]),
        ("roi_heads", "detections_per_img", 0),
        ("roi_heads", "nms_thresh", float("nan")),
    ],
)
def test_a_setting_that_no_reader_of_the_file_takes_is_refused(part, name, value):
    model = build("vgg16")
    setattr(getattr(model, part), name, value)
    with pytest.raises(UnsupportedModelError, match=rf"out of range: .*{part}\.{name}"):
        read_model_spec(model)


def with_input_channels(channels: int, values: list[float]) -> FasterRCNN:
    model = build("vgg16")
    model.backbone[0] = nn.Conv2d(channels, 16, 3, padding=1)
    model.transform.image_mean = model.transform.image_std = values
    return model


@pytest.mark.parametrize(
    ("channels", "values", "message"),
    [
        (4, [0.5] * 4, "for images of 4 channels, expected 3 or 1"),
        (6, [0.5], "for images of 6 channels, expected 3 or 1"),
        (1, [0.5] * 3, "backbone: it does not take what it is given: .* to have 1 channels, but got 3"),
    ],
)
def test_images_of_other_channels_are_refused(channels, values, message):
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        read_model_spec(with_input_channels(channels, values))
    assert caught.value.hint and "\n" not in str(caught.value)


class OneLevelFewer(RPNHead):
    """A head that leaves the last map out."""

    def forward(self, x: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return super().forward(x[:-1])


class NotFlat(nn.Module):
    """A predictor that keeps the pooled grid."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, None], x[:, None].repeat(1, 1, 4)


def set_head(model: FasterRCNN, head: nn.Module) -> None:
    model.rpn.head = head


def set_predictor(model: FasterRCNN, predictor: nn.Module) -> None:
    model.roi_heads.box_predictor = predictor


def set_no_anchors(model: FasterRCNN) -> None:
    model.rpn.anchor_generator.cell_anchors[2] = torch.zeros(0, 4)


def set_anchors_of_two_levels(model: FasterRCNN) -> None:
    model.rpn.anchor_generator = AnchorGenerator(((32,), (64,)), ((1.0,),) * 2)


def set_channels(model: FasterRCNN) -> None:
    model.backbone.out_channels = 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_no_anchors, "rpn.anchor_generator: no anchors for feature map 2"),
        (set_anchors_of_two_levels, "rpn.anchor_generator: anchors for 2 feature maps, but the backbone gives 3"),
        (
            lambda model: set_head(model, RPNHead(32, 2)),
            r"rpn.head: expected logits of shape \[\(1, 3, .* got \[\(1, 2, ",
        ),
        (
            lambda model: set_head(model, OneLevelFewer(32, 3)),
            r"rpn.head: expected logits .* got \[\(1, 3, 128, 128\), \(1, 3, 64, 64\)\] ",
        ),
        (
            lambda model: setattr(model.rpn.head, "bbox_pred", nn.Conv2d(32, 15, 1)),
            r"deltas of shape .* 4 for each anchor",
        ),
        (lambda model: set_head(model, RPNHead(16, 3)), "rpn.head: it does not take what it is given: "),
        (set_channels, "roi_heads.box_head or box_predictor: it does not take what it is given: "),
        (
            lambda model: set_predictor(model, NotFlat()),
            r"roi_heads.box_predictor: expected a row of logits .* \(2, 1, 64\)",
        ),
        (lambda model: set_predictor(model, FastRCNNPredictor(64, 1)), "expected at least 2 classes, .* got 1"),
        (
            lambda model: setattr(model.roi_heads.box_predictor, "bbox_pred", nn.Linear(64, 4)),
            "roi_heads.box_predictor: expected 4 box deltas for each of 7 classes, got 4",
        ),
    ],
)
def test_parts_that_disagree_are_named(change: Callable[[FasterRCNN], None], message: str):
    model = build("swin_fpn")
    change(model)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        read_model_spec(model)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_pooled_maps_have_the_channels_of_the_backbone():
    model = build("vgg16")
    model.backbone.out_channels = 32
    model.roi_heads.box_head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64))
    with pytest.raises(UnsupportedModelError, match=r"backbone: expected maps of 32 channels, .* got \[64\]"):
        read_model_spec(model)
