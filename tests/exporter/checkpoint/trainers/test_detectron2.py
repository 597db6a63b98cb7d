"""Detectron2's names and settings: those of its zoo, of a configuration, and what contradicts the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.detectron2_names import named
from support.trainer_states import state

from frcnn.errors import CheckpointError, UnsupportedModelError
from frcnn.exporter.checkpoint.trainers.detectron2 import convert
from frcnn.exporter.checkpoint.trainers.settings import Settings

FPN = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
        "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "PRE_NMS_TOPK_TEST": 1000},
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
    }
}


def weights(kind: str = "FPN", blocks: tuple[int, ...] = (3, 4, 6, 3), *, norm: str = "BN", **form: int) -> Any:
    """Return weights of the shapes of a ResNet's detector, which take no memory."""
    groups, width, classes = form.get("groups", 1), form.get("width", 64), form.get("classes", 80)
    per_cell = form.get("per_cell", 3 if kind == "FPN" else 15)
    shapes: dict[str, tuple[int, ...]] = {"backbone.body.conv1.weight": (64, 3, 7, 7)}
    shapes |= {f"backbone.body.bn1.{part}": (64,) for part in ("weight", "running_mean")[: 1 if norm == "GN" else 2]}
    for i, count in enumerate(blocks):
        place = "roi_heads.box_head.layer4" if kind == "C4" and i == 3 else f"backbone.body.layer{i + 1}"
        for block in range(count):
            inner = groups * width * 2**i
            shapes[f"{place}.{block}.conv1.weight"] = (inner, 64, 1, 1)
            shapes[f"{place}.{block}.conv2.weight"] = (inner, inner // groups, 3, 3)
            shapes[f"{place}.{block}.conv3.weight"] = (4 * inner, inner, 1, 1)
    for i in range(4 if kind == "FPN" else 0):
        shapes[f"backbone.fpn.inner_blocks.{i}.0.weight"] = (256, 64, 1, 1)
    for i in range(0 if kind == "C4" else form.get("fcs", 2)):
        shapes[f"roi_heads.box_head.fcs.{i}.weight"] = (1024, 64)
    shapes["rpn.head.conv.0.0.weight"] = (256, 256, 3, 3)
    shapes |= {f"rpn.head.{k}.weight": (n * per_cell, 256, 1, 1) for k, n in (("cls_logits", 1), ("bbox_pred", 4))}
    shapes["roi_heads.box_predictor.cls_score.weight"] = (classes + 1, 64)
    shapes["roi_heads.box_predictor.bbox_pred.weight"] = (form.get("boxes", classes) * 4, 64)
    return named({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()})


def changed(*path: str, **values: Any) -> dict[str, Any]:
    """Return a copy of the pyramid's configuration with other values."""
    if not path:
        return FPN | values
    return FPN | {"MODEL": FPN["MODEL"] | {path[0]: FPN["MODEL"].get(path[0], {}) | values}}


def settings_of(given: Any, config: dict[str, Any] | None = None, **options: Any) -> Settings:
    return convert(given, config, **options).settings


def test_every_weight_has_its_place():
    ours, counter = state(), "backbone.bottom_up.stem.conv1.norm.num_batches_tracked"
    theirs = named(ours)
    assert len(theirs.keys() & ours.keys()) == 4, "those of the box predictor"
    found = convert(theirs | {counter: torch.tensor(1)}, None).state
    assert found.keys() == ours.keys()
    assert all(found[name] is tensor for name, tensor in ours.items())


def test_the_last_stage_of_a_single_level_is_its_box_head():
    found = convert(weights("C4"), None).state
    assert {name for name in found if "box_head" in name} == {
        f"roi_heads.box_head.layer4.{block}.conv{i}.weight" for block in range(3) for i in (1, 2, 3)
    }


ZOO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "R50-FPN": (
        {},
        {
            **{"size_divisible": 32, "anchor_strides": (4, 8, 16, 32, 64), "out_stages": (0, 1, 2, 3)},
            **{"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1), "stride_in_1x1": True, "pool_size": 7},
            **{"rpn_pre_nms_top_n": 1000, "rpn_post_nms_top_n": 1000, "pooled_levels": 4, "finest_scale": 112.0},
            **{"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (1.0, 1.0, 1.0), "channel_order": "bgr"},
            **{"pool_aligned": True, "pool_max": False, "sampling_ratio": 0, "min_size": 800, "max_size": 1333},
        },
    ),
    "R101-C4": (
        {"kind": "C4", "blocks": (3, 4, 23, 3)},
        {
            **{"size_divisible": 1, "anchor_strides": (16,), "out_stages": (2,), "strides": (1, 2, 2, 2)},
            **{"rpn_pre_nms_top_n": 6000, "pooled_levels": 1, "pool_size": 14, "dilations": (1, 1, 1, 1)},
        },
    ),
    "R50-DC5": (
        {"kind": "DC5"},
        {
            **{"size_divisible": 1, "anchor_strides": (16,), "out_stages": (3,), "strides": (1, 2, 2, 1)},
            **{"rpn_pre_nms_top_n": 6000, "pooled_levels": 1, "pool_size": 7, "dilations": (1, 1, 1, 2)},
        },
    ),
    "X101-32x8d-FPN": (
        {"blocks": (3, 4, 23, 3), "groups": 32, "width": 8},
        {"stride_in_1x1": False, "pixel_std": (57.375, 57.12, 58.395)},
    ),
    "ResNet-FPN": ({"blocks": (1, 1, 1, 1), "norm": "GN"}, {"stride_in_1x1": False, "pixel_std": (1.0, 1.0, 1.0)}),
}


@pytest.mark.parametrize("name", ZOO)
def test_without_a_configuration_the_zoo_is_assumed(name):
    form, expected = ZOO[name]
    found = settings_of(weights(**form))
    assert (found.architecture, found.labels) == (name, None)
    assert {key: getattr(found, key) for key in expected} == expected


def test_anchors_are_size_by_size_and_not_rounded():
    (only,) = settings_of(weights("C4")).anchors
    assert len(only) == 15
    assert only[0] == pytest.approx((-22.627417, -11.313708, 22.627417, 11.313708))
    assert only[4] == (-32.0, -32.0, 32.0, 32.0)
    first, *_, last = settings_of(weights(), changed("ANCHOR_GENERATOR", OFFSET=0.5)).anchors
    assert first[1] == (-14.0, -14.0, 18.0, 18.0)
    assert last[1] == (-224.0, -224.0, 288.0, 288.0)


def test_a_configuration_says_what_the_weights_do_not():
    pooler = {"POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2, "BBOX_REG_WEIGHTS": (20, 20, 10, 10)}
    config = changed("ROI_BOX_HEAD", **pooler) | {
        "INPUT": {"MIN_SIZE_TEST": 640, "MAX_SIZE_TEST": 1000, "FORMAT": "RGB"},
        "TEST": {"DETECTIONS_PER_IMAGE": 7, "AUG": {"ENABLED": False}},
        "DATASETS": {"TRAIN": ("coco_2017_train",)},
    }
    found = settings_of(weights(), config)
    assert (found.min_size, found.max_size, found.channel_order, found.box_detections_per_img) == (640, 1000, "rgb", 7)
    assert (found.pool_aligned, found.sampling_ratio, found.box_weights) == (False, 2, (20.0, 20.0, 10.0, 10.0))
    assert found.labels is not None
    assert (len(found.labels), found.labels[0], found.labels[-1]) == (80, "person", "toothbrush")
    assert settings_of(weights(), config, labels=["a"] * 80).labels == ("a",) * 80


def test_class_names_are_those_of_the_datasets_or_none():
    heads = {"NAME": "StandardROIHeads", "NUM_CLASSES": 20, "IN_FEATURES": ["p2", "p3", "p4", "p5"]}
    for datasets, expected in (
        (("voc_2007_trainval", "voc_2012_trainval"), "aeroplane"),
        (("voc_2007_trainval", "mine"), None),
        ((), None),
        (("coco_2017_train",), None),
    ):
        config = changed("ROI_HEADS", **heads) | {"DATASETS": {"TRAIN": datasets}}
        labels = settings_of(weights(classes=20), config).labels
        assert (labels and labels[0]) == expected


def test_what_earlier_versions_kept_with_the_weights_is_read():
    kept = {"pixel_std": torch.tensor([57.375, 57.12, 58.395]).reshape(3, 1, 1), "pixel_mean": torch.zeros(3, 1, 1)}
    found = settings_of(weights() | kept)
    assert (found.pixel_std, found.pixel_mean) == ((57.375, 57.12, 58.395), (0.0, 0.0, 0.0))
    cells = {
        f"proposal_generator.anchor_generator.cell_anchors.{i}": torch.tensor(level)
        for i, level in enumerate(found.anchors)
    }
    assert settings_of(weights() | cells).anchors == found.anchors
    with pytest.raises(CheckpointError, match="the anchors are not those of the weights"):
        convert(weights() | cells | {"proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}, None)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "depth": (changed("RESNETS", DEPTH=101), {}, "DEPTH 101, the weights are those of 50"),
    "groups": (changed("RESNETS", NUM_GROUPS=32), {}, "NUM_GROUPS 32, the weights are those of 1"),
    "norm": (changed("RESNETS", NORM="GN"), {}, "NORM 'GN', the weights are those of 'FrozenBN'"),
    "group norm": (FPN, {"norm": "GN"}, "NORM 'FrozenBN', the weights are those of 'GN'"),
    "classes": (FPN, {"classes": 3}, "NUM_CLASSES 80, the weights are those of 3"),
    "agnostic": (FPN, {"boxes": 1}, "CLS_AGNOSTIC_BBOX_REG False, the weights are those of True"),
    "layers": (FPN, {"fcs": 1}, "NUM_FC 2, the weights are those of 1"),
    "no pyramid": (
        FPN,
        {"kind": "C4"},
        "'build_resnet_fpn_backbone', the weights are those of 'build_resnet_backbone'",
    ),
    "defaults": ({}, {}, "'build_resnet_backbone', the weights are those of 'build_resnet_fpn_backbone'"),
    "anchors": (FPN, {"per_cell": 9}, "the anchors are not those of the weights, whose RPN has 9"),
    "levels": (changed("ANCHOR_GENERATOR", SIZES=[[1], [2]]), {}, "expected positive numbers for 5 levels"),
    "sizes": (changed("ANCHOR_GENERATOR", SIZES=[["x"]]), {}, "expected positive numbers for 5 levels"),
    "zero": (changed("ANCHOR_GENERATOR", SIZES=[[0]]), {}, "expected positive numbers for 5 levels"),
    "features": (changed("RPN", IN_FEATURES=["p3"]), {}, r"RPN.IN_FEATURES \('p3',\), the pyramid has p2 to p6"),
    "text": (changed("RPN", NMS_THRESH="0,7"), {}, "NMS_THRESH '0,7', expected one like 0.7"),
    "truth": (changed(INPUT={"MIN_SIZE_TEST": True}), {}, "MIN_SIZE_TEST True, expected one like 800"),
    "two numbers": (changed(**{"MODEL": FPN["MODEL"] | {"PIXEL_STD": [1, 2]}}), {}, r"PIXEL_STD \(1, 2\), expected"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_configuration_that_contradicts_the_weights_is_refused(kind):
    config, form, expected = CONTRADICTIONS[kind]
    with pytest.raises(CheckpointError, match=expected) as error:
        convert(weights(**form), config)
    assert "--config" in error.value.hint


UNSUPPORTED: dict[str, tuple[dict[str, Any] | None, tuple[str, ...], str]] = {
    "lazy": ({"model": {"_target_": "os.system"}}, (), "is a LazyConfig, which names code"),
    "rotated": (changed("PROPOSAL_GENERATOR", NAME="RRPN"), (), "NAME 'RRPN'; only 'RPN' is restated"),
    "cascade": (changed("ROI_HEADS", NAME="CascadeROIHeads"), (), "'CascadeROIHeads'; only .* is restated"),
    "anchors": (changed("ANCHOR_GENERATOR", NAME="RotatedAnchorGenerator"), (), "'RotatedAnchorGenerator'"),
    "old": (changed(VERSION=1), (), "VERSION 1; only 2 is restated"),
    "deformable": (changed("RESNETS", DEFORM_ON_PER_STAGE=[False, True, True, True]), (), "DEFORM_ON_PER_STAGE"),
    "sigmoid": (changed("ROI_BOX_HEAD", USE_SIGMOID_CE=True), (), "USE_SIGMOID_CE True"),
    "deformable weights": (None, ("backbone.bottom_up.res3.0.conv2_offset.weight",), "deformable convolutions sample"),
    "own weights": (None, ("roi_heads.attention.weight",), "1 weights have no place.*roi_heads.attention.weight first"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_not_restated_is_refused_by_name(kind):
    config, names, expected = UNSUPPORTED[kind]
    with pytest.raises(UnsupportedModelError, match=expected):
        convert(weights() | dict.fromkeys(names, torch.zeros(1)), config)


def test_a_part_of_a_detector_is_told():
    proposals = {name: tensor for name, tensor in weights().items() if not name.startswith("roi_heads.")}
    with pytest.raises(CheckpointError, match=r"only a part of a detector: they lack roi_heads\.box_predictor"):
        convert(proposals, None)
