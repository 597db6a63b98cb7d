"""Which parts of MMDetection's configurations are plain layers, and what is wrong with the others.

A part is known by its key (``backbone``, ``neck``, ...). Each key in it is read, is of training only, or has one value
that is admitted; any other is refused by name: what a configuration says is never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from frcnn.errors import CheckpointError, UnsupportedModelError

ONLY_PLAIN: Final = "only Faster R-CNN of plain layers is exported"
CONFIG_HINT: Final = "give the whole configuration that the model is used with now (--config)"
_TRAINING: Final = "type init_cfg pretrained train_cfg with_cp"

_TYPES: Final[dict[str, str]] = {
    "model": "FasterRCNN MaskRCNN",
    "data_preprocessor": "DetDataPreprocessor TrackDataPreprocessor",
    "backbone": "ResNet ResNeXt ResNetV1d Res2Net RegNet HRNet",
    "neck": "FPN PAFPN HRFPN BFP",
    "rpn_head": "RPNHead",
    "anchor_generator": "AnchorGenerator",
    "bbox_coder": "DeltaXYWHBBoxCoder",
    "roi_head": "StandardRoIHead PISARoIHead DynamicRoIHead",
    "shared_head": "ResLayer",
    "bbox_roi_extractor": "SingleRoIExtractor",
    "roi_layer": "RoIAlign RoIPool",
    "bbox_head": "Shared2FCBBoxHead Shared4Conv1FCBBoxHead ConvFCBBoxHead BBoxHead",
    "norm_cfg": "BN BN2d SyncBN MMSyncBN GN",
    "conv_cfg": "Conv Conv2d ConvWS",
    "nms": "nms",
}

_FREE: Final[dict[str, str]] = {
    "model": "data_preprocessor backbone neck rpn_head roi_head test_cfg",
    "data_preprocessor": "mean std bgr_to_rgb pad_size_divisor batch_augments pad_mask mask_pad_value",
    "backbone": "depth arch groups base_width scales base_channels stem_channels num_stages strides dilations"
    " out_indices style deep_stem avg_down conv_cfg norm_cfg frozen_stages norm_eval zero_init_residual stage_with_dcn"
    " extra",
    "neck": "in_channels out_channels num_outs conv_cfg norm_cfg no_norm_on_lateral relu_before_extra_convs num_levels",
    "rpn_head": "in_channels feat_channels num_convs anchor_generator bbox_coder loss_cls loss_bbox reg_decoded_bbox",
    "anchor_generator": "scales octave_base_scale scales_per_octave ratios strides base_sizes"
    " center_offset scale_major",
    "bbox_coder": "target_stds",
    "roi_head": "bbox_roi_extractor bbox_head shared_head mask_roi_extractor mask_head",
    "shared_head": "depth stride dilation style norm_cfg norm_eval",
    "bbox_roi_extractor": "roi_layer out_channels featmap_strides finest_scale",
    "roi_layer": "output_size out_size sampling_ratio sample_num aligned use_torchvision",
    "bbox_head": "in_channels num_classes fc_out_channels conv_out_channels roi_feat_size num_shared_convs"
    " num_shared_fcs with_avg_pool reg_class_agnostic bbox_coder conv_cfg norm_cfg loss_cls loss_bbox reg_decoded_bbox",
    "loss_cls": "use_sigmoid loss_weight",
    "norm_cfg": "num_groups requires_grad momentum",
    "conv_cfg": "",
    "rpn": "nms_pre nms_post max_per_img max_num nms nms_thr",
    "rcnn": "score_thr nms max_per_img mask_thr_binary",
    "nms": "iou_threshold iou_thr split_thr",
}

_ONLY: Final[dict[str, dict[str, object]]] = {
    "data_preprocessor": {"pad_value": 0, "rgb_to_bgr": False},
    "backbone": {"in_channels": 3, "multiscale_output": True},
    "neck": {"start_level": 0, "end_level": -1, "upsample_cfg": {"mode": "nearest"}}
    | {"refine_level": 2, "refine_type": "non_local", "pooling_type": "AVG", "stride": 1},
    "rpn_head": {"num_classes": 1},
    "bbox_coder": {"target_means": (0, 0, 0, 0), "clip_border": True, "ctr_clamp": 32},
    "shared_head": {"stage": 3},
    "roi_layer": {"pool_mode": "avg"},
    "bbox_head": {"with_cls": True, "with_reg": True, "predict_box_type": "hbox"}
    | dict.fromkeys(("num_cls_convs", "num_cls_fcs", "num_reg_convs", "num_reg_fcs"), 0)
    | {key: {"type": "Linear"} for key in ("reg_predictor_cfg", "cls_predictor_cfg")},
    "norm_cfg": {"eps": 1e-5},
    "rpn": {"min_bbox_size": 0},
}

_NOT_FASTER: Final = {
    "CascadeRCNN": "Cascade R-CNN has a chain of box heads",
    "Detectron2Wrapper": "it wraps a model of Detectron2: give that model's own file",
    "SoftTeacher": "a teacher and its student: give the weights of one of them, under its own names",
    "TridentFasterRCNN": "TridentNet has three branches of each block",
}

_WHY: Final[dict[str, str]] = {
    **_NOT_FASTER,
    "dcn": "deformable convolutions sample where the image tells them to",
    "plugins": "attention inside the blocks",
    "ResNeSt": "split attention weighs the channels of each block",
    "FPG": "a grid of pyramids",
    "FPN_CARAFE": "CARAFE enlarges maps by kernels that the image makes",
    "GARPNHead": "guided anchors take their shapes from the image",
    "CascadeRPNHead": "its proposals are refined in a chain",
    "FCOSHead": "its proposals come from points, not anchors",
    "DoubleHeadRoIHead": "boxes are pooled apart from classes",
    "SABLHead": "its boxes come from buckets of their sides",
    "GenericRoIExtractor": "it pools every box from every level",
    "DeformRoIPoolPack": "deformable pooling samples where the box tells it to",
    "ModulatedDeformRoIPoolPack": "deformable pooling samples where the box tells it to",
    "LegacyAnchorGenerator": "the anchors and boxes of MMDetection 1 are counted in whole pixels",
    "LegacyDeltaXYWHBBoxCoder": "the anchors and boxes of MMDetection 1 are counted in whole pixels",
    "soft_nms": "soft NMS lowers scores in place of dropping boxes",
    "clip_border": "its boxes may leave the image",
    "class_agnostic": "NMS is over all classes together",
    "min_bbox_size": "proposals have another smallest side than 0",
    "SeesawLoss": "its class scores are no softmax",
    "CrossEntropyCustomLoss": "its class scores are no softmax",
}

WHY_WEIGHTS: Final[dict[str, str]] = {
    ".conv_offset.": _WHY["dcn"],
    ".conv2.fc1.": _WHY["ResNeSt"],
    ".gen_attention_block.": _WHY["plugins"],
    ".context_block": _WHY["plugins"],
    "upsample_modules.": _WHY["FPN_CARAFE"],
    "fpn_transitions.": _WHY["FPG"],
    "rpn_head.conv_loc.": _WHY["GARPNHead"],
    "rpn_head.stages.": _WHY["CascadeRPNHead"],
    "rpn_head.conv_centerness.": _WHY["FCOSHead"],
    "bbox_head.fc_branch.": _WHY["DoubleHeadRoIHead"],
    "bbox_head.upsample_x.": _WHY["SABLHead"],
    "roi_layers.": _WHY["DeformRoIPoolPack"],
    "roi_head.mask_head.": "the model predicts masks as well: --boxes-only leaves them out",
    "roi_head.bbox_head.0.": _NOT_FASTER["CascadeRCNN"],
    "teacher.": _NOT_FASTER["SoftTeacher"],
}
"""What names of weights say, where there is no configuration."""


def refuse(path: str, name: object) -> UnsupportedModelError:
    """Return the error about a type or key that has no deployable form."""
    why = _WHY.get(str(name), "")
    return UnsupportedModelError(f"{path}: {name} is not supported{why and ': ' + why}", hint=ONLY_PLAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A dictionary of a configuration, and where it is, for messages."""

    path: str
    data: Mapping[str, Any]

    def part(self, key: str) -> Part:
        """Return a dictionary below, checked; an empty one where there is none."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._expected(f"{key} as a dictionary", value)
        below = Part(path=f"{self.path}.{key}", data=value or {})
        if below.data and key in _FREE:
            below.check(key)
        return below

    @property
    def kind(self) -> str:
        """The part's type, "" where it names none."""
        return str(self.data.get("type", ""))

    def check(self, key: str) -> None:
        """Raise UnsupportedModelError for a type or a key of this part, which stands at ``key``, that is not known."""
        kind = self.data.get("type")
        if key == "loss_cls":
            if kind in _WHY:
                raise refuse(self.path, kind)
            return
        if kind is not None and kind not in _TYPES.get(key, str(kind)).split():
            if key == "model" and kind not in _WHY:
                raise UnsupportedModelError(f"the configuration is of {kind}, not of a Faster R-CNN", hint=ONLY_PLAIN)
            raise refuse(self.path, kind)
        free, only = f"{_FREE[key]} {_TRAINING}".split(), _ONLY.get(key, {})
        for name, value in self.data.items():
            is_plain = name in free or (frozen(value) == only[name] if name in only else value in (None, False))
            if not is_plain:
                raise refuse(self.path, name)

    def sequence(self, key: str) -> tuple[Any, ...]:
        """Return a list that is not empty."""
        value = frozen(self.data.get(key))
        if not isinstance(value, tuple) or not value:
            raise self._expected(f"{key} as a list", value)
        return value

    def number(self, key: str, default: float | None = None, *, above: float = -1.0) -> float:
        """Return a number above a limit."""
        return self._number(key, self.data.get(key, default), above)

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number above 0."""
        return self._count(key, self.data.get(key, default), 0)

    def numbers(
        self, key: str, default: Sequence[float] | None = None, *, length: int | None = None
    ) -> tuple[float, ...]:
        """Return numbers, ``length`` of them."""
        values = self._with(key, default).sequence(key)
        if length not in (None, len(values)):
            raise self._expected(f"{key} as {length} numbers", values)
        return tuple(self._number(key, value, -math.inf) for value in values)

    def counts(
        self, key: str, default: Sequence[int] | None = None, *, above: int = 0, length: int | None = None
    ) -> tuple[int, ...]:
        """Return whole numbers above a limit, ``length`` of them."""
        values = self._with(key, default).numbers(key, length=length)
        return tuple(self._count(key, value, above) for value in values)

    def _with(self, key: str, default: object) -> Part:
        given = self.data.get(key)
        return Part(path=self.path, data={key: default if given is None else given})

    def _number(self, key: str, value: object, above: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < math.inf:
            raise self._expected(f"{key} as a number" + (f" above {above:g}" if above > -math.inf else ""), value)
        return float(value)

    def _count(self, key: str, value: object, above: float) -> int:
        number = self._number(key, value, above)
        if number != int(number):
            raise self._expected(f"{key} as a whole number", value)
        return int(number)

    def _expected(self, wanted: str, value: object) -> CheckpointError:
        return CheckpointError(f"{self.path}: expected {wanted}, got {value!r}", hint=CONFIG_HINT)


def frozen(value: object) -> object:
    """Return lists as tuples: configurations write both."""
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


def transforms(pipeline: object) -> Iterator[Mapping[str, Any]]:
    """Yield the transforms of a pipeline, and those inside of others."""
    for item in pipeline if isinstance(pipeline, (list, tuple)) else ():
        if isinstance(item, Mapping):
            yield item
            yield from transforms(item.get("transforms"))
