"""Small detectors of MMDetection: random weights by its names, and configurations of its versions 2 and 3."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from support.trainer_states import Weights

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
WIDTHS = (8, 16, 32, 64)
CHANNELS = 16

CONFIG: dict[str, Any] = {
    "default_scope": "mmdet",
    "model": {
        "type": "FasterRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 8,
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet18"},
        },
        "neck": {"type": "FPN", "in_channels": list(WIDTHS), "out_channels": CHANNELS, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": CHANNELS,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [8],
                "ratios": [0.5, 1.0, 2.0],
                "strides": [4, 8, 16, 32, 64],
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": {
                "type": "SingleRoIExtractor",
                "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
                "out_channels": CHANNELS,
                "featmap_strides": [4, 8, 16, 32],
            },
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": CHANNELS,
                "num_classes": 3,
                "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
                "loss_cls": {"type": "CrossEntropyLoss"},
            },
        },
        "train_cfg": {"rpn": {"assigner": {"type": "MaxIoUAssigner"}}},
        "test_cfg": {
            "rpn": {
                "nms_pre": 1000,
                "max_per_img": 500,
                "nms": {"type": "nms", "iou_threshold": 0.7},
                "min_bbox_size": 0,
            },
            "rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100},
        },
    },
    "test_dataloader": {
        "dataset": {
            "pipeline": [
                {"type": "LoadImageFromFile", "backend_args": None},
                {"type": "Resize", "scale": (1333, 800), "keep_ratio": True},
                {"type": "PackDetInputs", "meta_keys": ("img_id", "img_shape")},
            ]
        }
    },
}
"""Of version 3."""


def config(changes: dict[str, object] | None = None) -> dict[str, Any]:
    """Return a configuration with other values at paths such as ``"model.backbone.depth"``."""
    changed = copy.deepcopy(CONFIG)
    for path, value in (changes or {}).items():
        *above, last = path.split(".")
        place: Any = changed
        for key in above:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value
    return changed


def version_2() -> dict[str, Any]:
    """Return the same configuration as version 2.0 wrote it."""
    old = copy.deepcopy(CONFIG)
    old["test_cfg"] = {
        "rpn": {"nms_pre": 1000, "nms_post": 1000, "max_num": 500, "nms_thr": 0.7, "min_bbox_size": 0},
        "rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_thr": 0.5}, "max_per_img": 100},
    }
    pixels = old["model"].pop("data_preprocessor")
    steps = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", "mean": pixels["mean"], "std": pixels["std"], "to_rgb": True},
        {"type": "Pad", "size_divisor": 32},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    augmented = {"type": "MultiScaleFlipAug", "img_scale": (1333, 800), "flip": False, "transforms": steps}
    old["data"] = {"test": {"type": "CocoDataset", "pipeline": [{"type": "LoadImageFromFile"}, augmented]}}
    del old["default_scope"], old["test_dataloader"], old["model"]["test_cfg"]
    old["model"]["roi_head"]["bbox_roi_extractor"]["roi_layer"] = {"type": "RoIAlign", "out_size": 7, "sample_num": 0}
    return old


def state(*, depth: int = 18, classes: int = 3, norm: str = "bn") -> dict[str, Tensor]:
    """Return the weights of a pyramid; widths are an eighth of a ResNet's, for 50 a thirty-second."""
    weights = Weights()
    weights.conv("backbone.conv1", 8, 3, 7)
    weights.norm(f"backbone.{norm}1", 8, has_statistics=norm == "bn")
    given = 8
    for i, (count, out) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True)):
        sides = (3, 3) if depth == 18 else (1, 3, 1)
        inner = out if depth == 18 else out // 4
        for j in range(count):
            block = f"backbone.layer{i + 1}.{j}"
            before = given
            for k, side in enumerate(sides, 1):
                after = out if k == len(sides) else inner
                weights.conv(f"{block}.conv{k}", after, before, side)
                weights.norm(f"{block}.{norm}{k}", after, has_statistics=norm == "bn")
                before = after
            if j == 0 and (i > 0 or given != out):
                weights.conv(f"{block}.downsample.0", out, given, 1)
                weights.norm(f"{block}.downsample.1", out, has_statistics=norm == "bn")
            given = out
        weights.conv(f"neck.lateral_convs.{i}.conv", CHANNELS, out, 1, bias=True)
        weights.conv(f"neck.fpn_convs.{i}.conv", CHANNELS, CHANNELS, 3, bias=True)
    weights.conv("rpn_head.rpn_conv", CHANNELS, CHANNELS, 3, bias=True)
    weights.conv("rpn_head.rpn_cls", 3, CHANNELS, 1, bias=True)
    weights.conv("rpn_head.rpn_reg", 12, CHANNELS, 1, bias=True)
    weights.linear("roi_head.bbox_head.shared_fcs.0", 32, CHANNELS * 49)
    weights.linear("roi_head.bbox_head.shared_fcs.1", 32, 32)
    weights.linear("roi_head.bbox_head.fc_cls", classes + 1, 32)
    weights.linear("roi_head.bbox_head.fc_reg", 4 * classes, 32)
    return dict(weights)
