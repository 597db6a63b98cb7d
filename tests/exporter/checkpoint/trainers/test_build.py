"""Detectors of other trainers, built as torchvision models: names, order of channels and classes, limits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import trainer_states as tiny
from torch import Tensor

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.exporter.checkpoint.trainers.settings import Converted
from frcnn.exporter.graph.export import export_onnx
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import Detector

PREDICTOR = "roi_heads.box_predictor"
NOT_LIMITED = -60_000.0


def noise(height: int = 96, width: int = 135) -> Tensor:
    """Return an image (3, height, width) of 8-bit numbers; 96x135 is resized to itself."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@torch.inference_mode()
def detect(converted: Converted, image: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = build_restatement(converted)([image])[0]
    return found


def test_the_background_becomes_the_first_class_and_has_no_box() -> None:
    converted = tiny.converted()
    model = build_restatement(converted)
    scores, given = model.roi_heads.box_predictor.cls_score.weight, converted.state[f"{PREDICTOR}.cls_score.weight"]
    assert torch.equal(scores[0], given[3])
    assert torch.equal(scores[1:], given[:3])
    boxes = model.roi_heads.box_predictor.bbox_pred.weight
    assert not boxes[:4].any()
    assert torch.equal(boxes[4:], converted.state[f"{PREDICTOR}.bbox_pred.weight"])


def test_boxes_of_no_class_are_those_of_every_class() -> None:
    converted = tiny.converted(agnostic=True)
    predictor = build_restatement(converted).roi_heads.box_predictor
    given = converted.state[f"{PREDICTOR}.bbox_pred.bias"]
    assert torch.equal(predictor.bbox_pred.bias, torch.cat([torch.zeros(4), given, given, given]))


def test_a_network_of_bgr_sees_the_same_image_as_one_of_rgb() -> None:
    of_bgr = tiny.converted()
    first = "backbone.body.conv1.weight"
    of_rgb = Converted(
        settings=replace(
            of_bgr.settings,
            channel_order="rgb",
            pixel_mean=of_bgr.settings.pixel_mean[::-1],
            pixel_std=of_bgr.settings.pixel_std[::-1],
        ),
        state=of_bgr.state | {first: of_bgr.state[first].flip(1)},
    )
    ours, same = detect(of_bgr, noise()), detect(of_rgb, noise())
    assert len(ours["boxes"]) > 10
    assert all(torch.equal(ours[name], same[name]) for name in ours)


@pytest.mark.parametrize("in_1x1", [True, False])
def test_a_bottleneck_halves_its_map_where_the_trainer_does(in_1x1: bool) -> None:
    model = build_restatement(tiny.converted(tiny.settings(stride_in_1x1=in_1x1)))
    strides = [getattr(model.backbone.body.layer2[0], name).stride[0] for name in ("conv1", "conv2", "conv3")]
    assert strides == ([2, 1, 1] if in_1x1 else [1, 2, 1])
    assert model.backbone.body.layer2[0].downsample[0].stride == (2, 2)


def test_a_dilated_stage_keeps_its_map() -> None:
    given = tiny.settings(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    body = build_restatement(tiny.converted(given)).backbone.body
    assert [map_.shape[-1] for map_ in body(torch.zeros(1, 3, 64, 64))] == [16, 8, 4, 4]
    assert body.layer4[0].conv2.dilation == (2, 2)


def test_groups_are_read_off_the_weights() -> None:
    model = build_restatement(tiny.converted(groups=2))
    assert [model.backbone.body.layer1[0].conv2.groups, model.backbone.body.layer1[0].conv1.groups] == [2, 1]


def test_mmdetection_limits_scales_from_below_in_both_heads() -> None:
    least = math.log(16 / 1000)
    model = build_restatement(tiny.converted(tiny.settings(trainer="mmdetection", min_log_scale=least)))
    expected = torch.tensor([NOT_LIMITED, NOT_LIMITED, 5 * least, 5 * least])
    assert torch.equal(model.roi_heads.box_predictor.least, expected.repeat(4))
    assert torch.equal(model.rpn.head.least[:4, 0, 0], torch.tensor([NOT_LIMITED, NOT_LIMITED, least, least]))
    with torch.no_grad():
        model.rpn.head.bbox_pred.bias.fill_(-100.0)
        deltas = model.rpn.head([torch.zeros(1, 16, 2, 2)])[1][0][0, :4, 0, 0]
    assert deltas.tolist() == pytest.approx([-100.0, -100.0, least, least], abs=0.01)


def test_anchors_are_not_rounded_and_their_strides_are_fixed() -> None:
    model = build_restatement(tiny.c4())
    maps = [torch.zeros(1, 24, 4, 6)]  # of a canvas of 61x83, which is no multiple of 16
    images: Any = type("Images", (), {"tensors": torch.zeros(1, 3, 61, 83), "image_sizes": [(61, 83)]})
    (anchors,) = model.rpn.anchor_generator(images, maps)
    assert anchors[0].tolist() == pytest.approx(
        [-8 * math.sqrt(2), -4 * math.sqrt(2), 8 * math.sqrt(2), 4 * math.sqrt(2)]
    )
    assert (anchors[6] - anchors[0]).tolist() == [16, 0, 16, 0]
    assert (anchors[-1] - anchors[5]).tolist() == [80, 48, 80, 48]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi_heads.box_predictor.bbox_pred.weight": torch.zeros(8, 32)}, "4 classes with the background and 8 box"),
        ({"backbone.extra.weight": torch.zeros(1)}, "1 weights that have no place in it: backbone.extra.weight"),
        ({"backbone.body.layer1.0.bn1.bias": torch.zeros(3)}, r"layer1.0.bn1.bias is \(3,\), .* expects \(4,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: dict[str, Tensor], message: str) -> None:
    converted = tiny.converted()
    with pytest.raises(CheckpointError, match=message):
        build_restatement(Converted(settings=converted.settings, state=converted.state | change))


def test_a_missing_weight_is_named() -> None:
    converted = tiny.converted()
    state = {name: t for name, t in converted.state.items() if name != "backbone.body.layer2.0.conv1.weight"}
    with pytest.raises(CheckpointError, match=r"lack backbone.body.layer2.0.conv1.weight"):
        build_restatement(Converted(settings=converted.settings, state=state))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("converted", "size"),
    [
        (tiny.converted(), (107, 150)),
        (
            tiny.converted(
                tiny.settings(
                    trainer="mmdetection", min_log_scale=math.log(16 / 1000), channel_order="rgb", stride_in_1x1=False
                ),
                agnostic=True,
                groups=2,
            ),
            (111, 70),
        ),
        (tiny.c4(), (61, 83)),
    ],
    ids=["detectron2", "mmdetection", "c4"],
)
def test_the_export_detects_what_the_restatement_does(
    converted: Converted, size: tuple[int, int], tmp_path: Path
) -> None:
    model = build_restatement(converted)
    export_onnx(model, tmp_path / "model.onnx")
    image = noise(*size)
    with torch.inference_mode():
        expected = model([image])[0]
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    found = Detector.load(tmp_path / "model.onnx")([pixels], score=0)[0]
    assert len(found) == len(expected["boxes"]) > 10
    columns = (
        (found.labels, found.boxes, found.scores),
        tuple(expected[name].numpy() for name in ("labels", "boxes", "scores")),
    )
    ours, same = (  # in an order that does not depend on equal scores
        [column[np.lexsort((boxes[:, 1], boxes[:, 0], labels))] for column in (labels, boxes, scores)]
        for labels, boxes, scores in columns
    )
    np.testing.assert_array_equal(ours[0], same[0])
    np.testing.assert_allclose(ours[1], same[1], atol=1e-3)
    np.testing.assert_allclose(ours[2], same[2], atol=1e-5)
    assert read_model_spec(model).transform.resize == converted.settings.trainer
