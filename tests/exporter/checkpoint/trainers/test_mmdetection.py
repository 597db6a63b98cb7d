"""MMDetection's checkpoints: names, settings of versions 2 and 3, what is refused and why."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import mmdetection_states as tiny
from torch import Tensor
from torch.nn import functional as F

from frcnn.errors import CheckpointError, FrcnnError, UnsupportedModelError
from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.exporter.checkpoint.trainers.mmdetection import convert
from frcnn.exporter.checkpoint.trainers.settings import Settings

MEAN = (123.675, 116.28, 103.53)
BACKBONE, RPN, ROI = "model.backbone", "model.rpn_head", "model.roi_head"
EXTRACTOR, HEAD, PIPELINE = f"{ROI}.bbox_roi_extractor", f"{ROI}.bbox_head", "test_dataloader.dataset.pipeline"
RPN_LIMITS, BOX_LIMITS = "model.test_cfg.rpn", "model.test_cfg.rcnn"


def read(changes: dict[str, object]) -> Settings:
    return convert(tiny.state(), tiny.config(changes), labels=None).settings


def refusal(config: dict[str, Any] | None, state: dict[str, Tensor] | None = None) -> FrcnnError:
    with pytest.raises(FrcnnError) as refused:
        convert(state or tiny.state(), config, labels=None)
    assert refused.value.hint
    return refused.value


def test_every_weight_has_its_place_in_the_restatement() -> None:
    given = tiny.state()
    given |= {"backbone.bn1.num_batches_tracked": torch.tensor(7), "ema_backbone_conv1_weight": torch.zeros(1)}
    model = build_restatement(convert(given, tiny.config(), labels=None))
    own = model.state_dict()
    assert torch.equal(own["backbone.body.layer2.0.bn2.running_var"], given["backbone.layer2.0.bn2.running_var"])
    assert torch.equal(own["backbone.fpn.inner_blocks.3.0.weight"], given["neck.lateral_convs.3.conv.weight"])
    assert torch.equal(own["backbone.fpn.layer_blocks.1.0.bias"], given["neck.fpn_convs.1.conv.bias"])
    assert torch.equal(own["rpn.head.conv.0.0.weight"], given["rpn_head.rpn_conv.weight"])
    assert torch.equal(own["rpn.head.cls_logits.bias"], given["rpn_head.rpn_cls.bias"])
    assert torch.equal(own["roi_heads.box_head.fcs.1.weight"], given["roi_head.bbox_head.shared_fcs.1.weight"])
    assert torch.equal(own["roi_heads.box_predictor.bbox_pred.weight"][4:], given["roi_head.bbox_head.fc_reg.weight"])


def test_the_settings_are_those_of_the_configuration() -> None:
    settings = read({})
    assert settings.architecture == "R18-FPN"
    assert (settings.min_size, settings.max_size, settings.fixed_size, settings.size_divisible) == (800, 1333, None, 32)
    assert (settings.channel_order, settings.pixel_mean) == ("rgb", MEAN)
    assert settings.stride_in_1x1 is False
    assert settings.anchor_strides == (4, 8, 16, 32, 64)
    half = 16 * math.sqrt(0.5)  # scale 8 of stride 4 is 32 pixels; the first ratio is twice as wide as high
    assert settings.anchors[0][0] == pytest.approx((-2 * half, -half, 2 * half, half))
    assert settings.anchors[4][1] == pytest.approx((-256, -256, 256, 256))
    assert (settings.rpn_pre_nms_top_n, settings.rpn_post_nms_top_n, settings.rpn_nms_thresh) == (1000, 500, 0.7)
    assert (settings.pooled_levels, settings.pool_size, settings.pool_aligned) == (4, 7, True)
    assert settings.finest_scale == 112
    assert settings.box_weights == pytest.approx((10, 10, 5, 5))
    assert (settings.box_score_thresh, settings.box_nms_thresh, settings.box_detections_per_img) == (0.05, 0.5, 100)
    assert settings.min_log_scale == pytest.approx(math.log(16 / 1000))


def test_version_2_says_the_same_in_other_words() -> None:
    assert convert(tiny.state(), tiny.version_2(), labels=None).settings == read({})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({f"{BACKBONE}.style": "caffe"}, {"stride_in_1x1": True}),
        ({"model.data_preprocessor.bgr_to_rgb": False}, {"channel_order": "bgr", "pixel_mean": MEAN}),
        ({"model.data_preprocessor.pad_size_divisor": 1}, {"size_divisible": 1}),
        ({f"{PIPELINE}.1.scale": (640, 640)}, {"min_size": 640, "max_size": 640}),
        ({f"{PIPELINE}.1.keep_ratio": False}, {"fixed_size": (800, 1333)}),
        ({f"{PIPELINE}.1": {"type": "Resize", "scale": [500, 400]}}, {"fixed_size": (400, 500)}),
        ({f"{EXTRACTOR}.roi_layer.aligned": False, f"{EXTRACTOR}.finest_scale": 28}, {"pool_aligned": False}),
        ({f"{EXTRACTOR}.finest_scale": 28}, {"finest_scale": 56.0}),
        ({f"{EXTRACTOR}.roi_layer": {"type": "RoIPool", "output_size": (7, 7)}}, {"pool_max": True, "pool_size": 7}),
        ({f"{HEAD}.bbox_coder.target_stds": [0.05, 0.1, 0.2, 0.25]}, {"box_weights": (20.0, 10.0, 5.0, 4.0)}),
        ({f"{HEAD}.reg_decoded_bbox": True, f"{ROI}.type": "PISARoIHead"}, {"pooled_levels": 4}),
        ({f"{BACKBONE}.norm_cfg.type": "SyncBN", f"{BACKBONE}.with_cp": True}, {"norm_groups": 32}),
    ],
)
def test_a_setting_is_read(changes: dict[str, object], expected: dict[str, object]) -> None:
    settings = read(changes)
    assert {name: getattr(settings, name) for name in expected} == expected


def test_anchors_of_octaves_and_an_offset() -> None:
    generator = {
        "octave_base_scale": 4,
        "scales_per_octave": 3,
        "ratios": [1.0],
        "strides": [(8, 8)],
        "base_sizes": [10],
    }
    changes = {
        f"{RPN}.anchor_generator": generator | {"center_offset": 0.5},
        f"{EXTRACTOR}.featmap_strides": [8],
        "model.neck.num_outs": 1,
    }
    (level,) = read(changes).anchors
    sides = [x2 - x1 for x1, _, x2, _ in level]
    assert sides == pytest.approx([40, 40 * 2 ** (1 / 3), 40 * 2 ** (2 / 3)])
    assert (level[0][0] + level[0][2]) / 2 == pytest.approx(5)


@pytest.mark.parametrize(("scale_major", "widths"), [(True, [32, 64, 16, 32, 8, 16]), (False, [32, 16, 8, 64, 32, 16])])
def test_anchors_go_ratio_by_ratio_or_scale_by_scale(scale_major: bool, widths: list[int]) -> None:
    changes = {
        f"{RPN}.anchor_generator.{key}": value for key, value in {"scales": [4, 8], "ratios": [0.25, 1, 4]}.items()
    }
    given = tiny.state() | {"rpn_head.rpn_cls.weight": torch.zeros(6, tiny.CHANNELS, 1, 1)}
    config = tiny.config(changes | {f"{RPN}.anchor_generator.scale_major": scale_major})
    anchors = convert(given, config, labels=None).settings.anchors[0]
    assert [x2 - x1 for x1, _, x2, _ in anchors] == widths


def test_standardised_filters_compute_what_mmdetection_does_at_every_call() -> None:
    given = tiny.state(norm="gn")
    norm = {"type": "GN", "num_groups": 4}
    changes = {f"{BACKBONE}.norm_cfg": norm, f"{BACKBONE}.conv_cfg": {"type": "ConvWS"}}
    converted = convert(given, tiny.config(changes), labels=None)
    assert converted.settings.norm_groups == 4
    weight, image = given["backbone.conv1.weight"], torch.rand(1, 3, 32, 32)
    flat = weight.view(8, -1)
    mean, std = flat.mean(1).view(8, 1, 1, 1), flat.std(1).view(8, 1, 1, 1)
    expected = F.conv2d(image, (weight - mean) / (std + 1e-5))
    torch.testing.assert_close(F.conv2d(image, converted.state["backbone.body.conv1.weight"]), expected)
    assert torch.equal(converted.state["rpn.head.conv.0.0.weight"], given["rpn_head.rpn_conv.weight"])
    assert torch.equal(converted.state["backbone.fpn.layer_blocks.0.0.weight"], given["neck.fpn_convs.0.conv.weight"])


def test_without_a_configuration_the_zoo_is_assumed() -> None:
    settings = convert(tiny.state(depth=50), None, labels=None).settings
    assert (settings.channel_order, settings.pixel_mean, settings.stride_in_1x1) == ("rgb", MEAN, False)
    assert (settings.anchors, settings.rpn_post_nms_top_n) == (read({}).anchors, 1000)
    without_norms = refusal(None, tiny.state(norm="gn"))
    assert "no configuration" in without_norms.message
    assert "--config" in without_norms.hint


@pytest.mark.parametrize("named", [("a", "b", "c"), ["a", "b", "c"]])
def test_labels_of_the_checkpoint(named: Any) -> None:
    assert convert(tiny.state(), tiny.config(), labels=named).settings.labels == ("a", "b", "c")


def test_one_class_may_be_named_by_a_text_alone() -> None:
    changes = {f"{HEAD}.num_classes": 1}
    assert convert(tiny.state(classes=1), tiny.config(changes), labels="cat").settings.labels == ("cat",)
    with pytest.raises(CheckpointError, match="names 2 classes, its box predictor has 3"):
        convert(tiny.state(), tiny.config(), labels=("a", "b"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.type": "RetinaNet"}, "the configuration is of RetinaNet, not of a Faster R-CNN"),
        ({"model.type": "CascadeRCNN"}, "model: CascadeRCNN is not supported: Cascade R-CNN has a chain"),
        ({f"{BACKBONE}.dcn": {"type": "DCN"}}, "model.backbone: dcn is not supported: deformable"),
        ({f"{BACKBONE}.plugins": [{}]}, "model.backbone: plugins is not supported: attention"),
        ({f"{BACKBONE}.type": "ResNeSt"}, "model.backbone: ResNeSt is not supported: split attention"),
        ({f"{BACKBONE}.norm_cfg.eps": 1e-3}, "model.backbone.norm_cfg: eps is not supported"),
        ({f"{BACKBONE}.conv_cfg": {"type": "ConvAWS"}}, "model.backbone.conv_cfg: ConvAWS is not supported"),
        ({f"{BACKBONE}.in_channels": 1}, "model.backbone: in_channels is not supported"),
        ({"model.neck.type": "FPN_CARAFE"}, "model.neck: FPN_CARAFE is not supported: CARAFE"),
        ({"model.neck.add_extra_convs": "on_output"}, "model.neck: add_extra_convs is not supported"),
        ({"model.neck.act_cfg": {"type": "ReLU"}}, "model.neck: act_cfg is not supported"),
        ({f"{RPN}.type": "GARPNHead"}, "model.rpn_head: GARPNHead is not supported: guided anchors"),
        ({f"{RPN}.bbox_coder.target_stds": [0.1] * 4}, "model.rpn_head.bbox_coder: target_stds is not supported"),
        (
            {f"{RPN}.bbox_coder.clip_border": False},
            "model.rpn_head.bbox_coder: clip_border is not supported: its boxes may",
        ),
        ({f"{RPN}.bbox_coder.type": "LegacyDeltaXYWHBBoxCoder"}, "MMDetection 1"),
        ({f"{ROI}.type": "DoubleHeadRoIHead"}, "model.roi_head: DoubleHeadRoIHead is not supported: boxes are pooled"),
        ({f"{EXTRACTOR}.type": "GenericRoIExtractor"}, "GenericRoIExtractor is not supported: it pools every box"),
        ({f"{EXTRACTOR}.roi_layer.pool_mode": "max"}, "pool_mode is not supported"),
        ({f"{EXTRACTOR}.featmap_strides": [8, 16, 32]}, "pooled from strides [8, 16, 32], and proposals come from"),
        ({f"{HEAD}.type": "SABLHead"}, "model.roi_head.bbox_head: SABLHead is not supported: its boxes come from"),
        ({f"{HEAD}.with_avg_pool": True}, "model.roi_head.bbox_head: with_avg_pool is not supported"),
        ({f"{HEAD}.loss_cls.type": "SeesawLoss"}, "SeesawLoss is not supported: its class scores are no softmax"),
        ({f"{BOX_LIMITS}.nms.type": "soft_nms"}, "model.test_cfg.rcnn.nms: soft_nms is not supported: soft NMS"),
        ({f"{BOX_LIMITS}.nms.class_agnostic": True}, "class_agnostic is not supported: NMS is over all classes"),
        ({f"{RPN_LIMITS}.min_bbox_size": 16}, "model.test_cfg.rpn: min_bbox_size is not supported"),
        ({f"{PIPELINE}.1.backend": "pillow"}, "test_pipeline.Resize: backend='pillow' is not supported"),
        ({f"{PIPELINE}.1.type": "CenterCrop"}, "test_pipeline: CenterCrop is not supported"),
        ({"model.data_preprocessor.pad_value": 114}, "model.data_preprocessor: pad_value is not supported"),
    ],
)
def test_what_is_not_plain_is_named(changes: dict[str, object], message: str) -> None:
    refused = refusal(tiny.config(changes))
    assert isinstance(refused, UnsupportedModelError)
    assert message in refused.message


def test_test_time_augmentation_is_refused() -> None:
    old = tiny.version_2()
    old["data"]["test"]["pipeline"][1]["flip"] = True
    assert "test_pipeline.MultiScaleFlipAug: flip=True is not supported" in refusal(old).message
    old["data"]["test"]["pipeline"][1] |= {"flip": False, "img_scale": [(1333, 800), (666, 400)]}
    assert "img_scale=((1333, 800), (666, 400)) is not supported" in refusal(old).message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{HEAD}.num_classes": 80}, "classes: it says 80, they have 3"),
        ({f"{HEAD}.reg_class_agnostic": True}, "box deltas: it says 4, they have 12"),
        ({f"{BACKBONE}.depth": 101}, "blocks of the backbone's stages: it says [3, 4, 23, 3], they have [2, 2, 2, 2]"),
        ({"model.neck.in_channels": [256, 512, 1024, 2048]}, "channels into the neck: it says [256, 512, 1024, 2048]"),
        ({"model.neck": None}, "neck: it says none, they have FPN"),
        ({"model.neck.num_outs": 4}, "levels of the neck: it says 4, they have 5"),
        ({f"{RPN}.anchor_generator.scales": [8, 16]}, "anchors of a cell: it says 6, they have 3"),
        ({f"{EXTRACTOR}.roi_layer.output_size": 14}, "inputs of the box head: it says 3136, they have 784"),
        ({f"{BACKBONE}.norm_cfg": {"type": "GN", "num_groups": 4}}, "norms: it says GN, they have BN"),
    ],
)
def test_a_configuration_that_contradicts_its_weights(changes: dict[str, object], message: str) -> None:
    refused = refusal(tiny.config(changes))
    assert isinstance(refused, CheckpointError)
    assert message in refused.message
    assert "--config" in refused.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "no model = dict"),
        ({"model.backbone": 50}, "model: expected backbone as a dictionary, got 50"),
        ({f"{BOX_LIMITS}.score_thr": "low"}, "model.test_cfg.rcnn: expected score_thr as a number above -1, got 'low'"),
        ({f"{BOX_LIMITS}.max_per_img": -1}, "expected max_per_img as a number above 0, got -1"),
        ({f"{RPN}.anchor_generator.ratios": []}, "model.rpn_head.anchor_generator: expected ratios as a list"),
        ({"model.data_preprocessor.mean": [1, 2]}, "expected mean as 3 numbers, got (1, 2)"),
        ({f"{BACKBONE}.strides": [1, 2.5, 2, 2]}, "expected strides as a whole number, got 2.5"),
        ({"test_dataloader": {}}, "resizes no test images"),
    ],
)
def test_a_configuration_that_cannot_be_read(changes: dict[str, object], message: str) -> None:
    refused = refusal(tiny.config(changes))
    assert isinstance(refused, CheckpointError)
    assert message in refused.message


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("backbone.layer2.0.conv2.conv_offset.weight", "deformable"),
        ("rpn_head.conv_loc.weight", "guided anchors"),
        ("roi_head.mask_head.convs.0.conv.weight", "--boxes-only"),
        ("bbox_head.retina_cls.weight", "no place in a plain Faster R-CNN, bbox_head.retina_cls.weight first"),
    ],
)
def test_weights_of_other_parts_are_named_without_a_configuration(name: str, why: str) -> None:
    assert why in refusal(None, tiny.state() | {name: torch.zeros(1)}).message


def test_weights_that_are_missing_are_named() -> None:
    left = {name: tensor for name, tensor in tiny.state().items() if not name.startswith("rpn_head.rpn_cls")}
    assert "the weights lack rpn.head.cls_logits.weight" in refusal(tiny.config(), left).message
