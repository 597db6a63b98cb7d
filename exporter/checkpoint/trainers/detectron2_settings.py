"""The settings of a detector of Detectron2: what its configuration says, or that of its zoo, beside the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from frcnn.errors import CheckpointError, UnsupportedModelError
from frcnn.exporter.checkpoint.trainers.settings import Settings, Triple

CELLS: Final = re.compile(r"proposal_generator\.anchor_generator\.cell_anchors\.\d+")
"""Anchors, which earlier versions kept with the weights."""

_HINT: Final = "give the config.yaml that was written when it was trained (--config)"
_ONE: Final = (1.0, 1.0, 1.0, 1.0)
_ADMITTED: Final[tuple[tuple[str, Any, tuple[Any, ...]], ...]] = (  # key, what it is by default, what is restated
    ("VERSION", 2, (2,)),
    ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", ("GeneralizedRCNN", "PanopticFPN")),
    ("MODEL.BACKBONE.NAME", "build_resnet_backbone", ("build_resnet_backbone", "build_resnet_fpn_backbone")),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", (False,) * 4, ((False,) * 4,)),
    ("MODEL.FPN.FUSE_TYPE", "sum", ("sum",)),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", ("RPN",)),
    ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0, (0,)),
    ("MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator", ("DefaultAnchorGenerator",)),
    ("MODEL.RPN.HEAD_NAME", "StandardRPNHead", ("StandardRPNHead",)),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", _ONE, (_ONE,)),
    ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", ("Res5ROIHeads", "StandardROIHeads")),
    ("MODEL.ROI_BOX_HEAD.NAME", "", ("", "FastRCNNConvFCHead")),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2", ("ROIAlignV2", "ROIAlign", "ROIPool")),
    ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False, (False,)),
    ("INPUT.FORMAT", "BGR", ("BGR", "RGB")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the names and shapes of the weights tell."""

    kind: str  # FPN, C4 or DC5, whose last stage is dilated as a rule
    depth: int | None  # None for another number of blocks than a ResNet has
    groups: int
    width: int  # of each group in the first stage
    group_norm: bool
    levels: tuple[int, ...]  # of the pyramid: 2 for a map of stride 4
    classes: int
    agnostic: bool | None  # None for one class, where there is no difference
    convs: int
    fcs: int
    per_cell: int

    @property
    def name(self) -> str:
        """For people, such as ``R50-FPN``."""
        body = f"X{self.depth}-{self.groups}x{self.width}d" if self.groups > 1 else f"R{self.depth}"
        return f"{body if self.depth else 'ResNet'}-{self.kind}"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration by names with dots, lists as tuples."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = _tuples(value)
    return values


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def zoo_of(form: Form) -> dict[str, Any]:
    """Return what the zoo's configuration of such weights changes of Detectron2's defaults."""
    changes: dict[str, Any] = {}
    if form.kind == "FPN":
        names = tuple(f"p{level}" for level in form.levels)
        changes |= {
            "MODEL.ANCHOR_GENERATOR.SIZES": tuple((8.0 * 2**level,) for level in (*form.levels, form.levels[-1] + 1)),
            "MODEL.RPN.IN_FEATURES": (*names, f"p{form.levels[-1] + 1}"),
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
            "MODEL.ROI_HEADS.IN_FEATURES": names,
        }
    if form.kind == "DC5":
        changes |= {"MODEL.RESNETS.RES5_DILATION": 2}
    if form.kind != "C4":
        changes |= {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7}
    if form.groups > 1 or form.group_norm:  # these were trained from the weights of other makers
        changes |= {"MODEL.RESNETS.STRIDE_IN_1X1": False}
    if form.groups > 1:
        changes |= {"MODEL.PIXEL_STD": (57.375, 57.12, 58.395)}
    return changes


class Values:
    """A configuration by names with dots, on top of Detectron2's defaults."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def get(self, key: str, default: Any) -> Any:
        """Return a value of the default's type; raise CheckpointError for one of another."""
        value = self.values.get(key, default)
        numbers = isinstance(default, (int, float)) and not isinstance(default, bool)
        fits = isinstance(value, (int, float) if type(default) is float else type(default))
        if not fits or (numbers and isinstance(value, bool)):
            raise CheckpointError(f"the configuration says {key} {value!r}, expected one like {default!r}", hint=_HINT)
        return value

    def floats(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Return as many numbers as the default has."""
        value = self.get(key, default)
        if len(value) != len(default) or not all(isinstance(one, (int, float)) for one in value):
            raise CheckpointError(f"the configuration says {key} {value!r}, expected one like {default!r}", hint=_HINT)
        return tuple(map(float, value))


def require_restated(given: Values) -> None:
    """Raise UnsupportedModelError for the first thing that the configuration says and that is not restated here."""
    if any(key.partition(".")[0] == "model" for key in given.values):
        raise UnsupportedModelError("the configuration is a LazyConfig, which names code", hint=_HINT)
    for key, default, admitted in _ADMITTED:
        value = given.get(key, default)
        if value not in admitted:
            raise UnsupportedModelError(
                f"the configuration says {key} {value!r}; only {' or '.join(map(repr, admitted))} is restated here",
                hint="only plain Faster R-CNN is exported",
            )


def require_agreement(form: Form, given: Values) -> None:
    """Raise CheckpointError for the first thing that the configuration says and the weights contradict."""
    is_pyramid = form.kind == "FPN"
    norms = {True: "GN", False: "FrozenBN"}
    norm = given.get("MODEL.RESNETS.NORM", "FrozenBN")
    for key, says, found in (
        ("MODEL.BACKBONE.NAME", None, "build_resnet_fpn_backbone" if is_pyramid else "build_resnet_backbone"),
        ("MODEL.ROI_HEADS.NAME", None, "Res5ROIHeads" if form.kind == "C4" else "StandardROIHeads"),
        ("MODEL.RESNETS.DEPTH", 50, form.depth or "no ResNet"),
        ("MODEL.RESNETS.NUM_GROUPS", 1, form.groups),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 64, form.width),
        ("MODEL.RESNETS.NORM", "FrozenBN", norm if (norm == "GN") == form.group_norm else norms[form.group_norm]),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, form.classes),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False, form.agnostic),
        ("MODEL.ROI_BOX_HEAD.NUM_CONV", 0, form.convs),
        ("MODEL.ROI_BOX_HEAD.NUM_FC", 0, form.fcs),
    ):
        unused = form.kind == "C4" and ".NUM_" in key and "BOX_HEAD" in key
        default = next((default for name, default, _ in _ADMITTED if name == key), says)
        value = given.get(key, default)
        if value != found and found is not None and not unused:
            raise CheckpointError(
                f"the configuration says {key} {value!r}, the weights are those of {found!r}",
                hint=f"it is of another model: {_HINT}",
            )


def settings_of(form: Form, given: Values, state: Mapping[str, Tensor]) -> Settings:
    """Return the settings of a detector of some form; ``state`` has the weights by Detectron2's names."""
    dilation = given.get("MODEL.RESNETS.RES5_DILATION", 1) if form.kind == "DC5" else 1
    strides = (1, 2, 2, 1 if dilation == 2 else 2)
    if form.kind == "FPN":
        anchor_levels = _levels(given, "MODEL.RPN.IN_FEATURES", form.levels, (*form.levels, form.levels[-1] + 1))
        pooled = _levels(
            given, "MODEL.ROI_HEADS.IN_FEATURES", *(form.levels[:n] for n in range(1, len(form.levels) + 1))
        )
        anchor_strides = tuple(2**level for level in anchor_levels)
    else:
        anchor_strides, pooled = (4 * math.prod(strides[: 3 if form.kind == "C4" else 4]),), (4,)
    pooler = given.get("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2")
    mean = _pixels(given, state, "MODEL.PIXEL_MEAN", (103.53, 116.28, 123.675))
    return Settings(
        trainer="detectron2",
        architecture=form.name,
        min_size=given.get("INPUT.MIN_SIZE_TEST", 800),
        max_size=given.get("INPUT.MAX_SIZE_TEST", 1333),
        size_divisible=2 ** form.levels[-1] if form.levels else 1,
        pixel_mean=mean,
        pixel_std=_pixels(given, state, "MODEL.PIXEL_STD", (1.0, 1.0, 1.0)),
        channel_order="rgb" if given.get("INPUT.FORMAT", "BGR") == "RGB" else "bgr",
        stride_in_1x1=given.get("MODEL.RESNETS.STRIDE_IN_1X1", True),
        strides=strides,
        dilations=(1, 1, 1, dilation),
        out_stages=tuple(level - 2 for level in form.levels) or ((2,) if form.kind == "C4" else (3,)),
        anchors=_anchors(given, form, anchor_strides, state),
        anchor_strides=anchor_strides,
        rpn_pre_nms_top_n=given.get("MODEL.RPN.PRE_NMS_TOPK_TEST", 6000),
        rpn_post_nms_top_n=given.get("MODEL.RPN.POST_NMS_TOPK_TEST", 1000),
        rpn_nms_thresh=given.get("MODEL.RPN.NMS_THRESH", 0.7),
        pooled_levels=len(pooled),
        pool_size=given.get("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
        pool_aligned=pooler == "ROIAlignV2",
        pool_max=pooler == "ROIPool",
        sampling_ratio=given.get("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
        finest_scale=224.0 * 2.0 ** (pooled[0] - 3),
        box_weights=_four(given.floats("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0))),
        box_score_thresh=given.get("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05),
        box_nms_thresh=given.get("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
        box_detections_per_img=given.get("TEST.DETECTIONS_PER_IMAGE", 100),
    )


def _four(values: Sequence[float]) -> tuple[float, float, float, float]:
    a, b, c, d = values
    return a, b, c, d


def _levels(given: Values, key: str, *admitted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the levels of the pyramid that a part takes."""
    names = given.get(key, ("res4",))
    for levels in admitted:
        if names == tuple(f"p{level}" for level in levels):
            return levels
    raise CheckpointError(
        f"the configuration says {key} {names!r}, the pyramid has p{admitted[-1][0]} to p{admitted[-1][-1]}", hint=_HINT
    )


def _pixels(given: Values, state: Mapping[str, Tensor], key: str, default: Triple) -> Triple:
    """Return a mean or a deviation: what the configuration says, else what is kept with the weights, else the zoo's."""
    kept = state.get(key.rpartition(".")[2].lower())
    if kept is not None and kept.numel() == 3 and key not in given.values:
        default = tuple(round(float(value), 4) for value in kept.flatten())  # type: ignore[assignment]  # of three
    first, second, third = given.floats(key, default)
    return first, second, third


def _anchors(
    given: Values, form: Form, strides: Sequence[int], state: Mapping[str, Tensor]
) -> tuple[tuple[tuple[float, float, float, float], ...], ...]:
    """Return the anchors of each level's first cell, size by size, then ratio by ratio."""
    parts = []
    for key, default in (("SIZES", ((32, 64, 128, 256, 512),)), ("ASPECT_RATIOS", ((0.5, 1.0, 2.0),))):
        value = given.get(f"MODEL.ANCHOR_GENERATOR.{key}", default)
        levels = value if all(isinstance(level, tuple) for level in value) else (value,)
        levels = levels * len(strides) if len(levels) == 1 else levels
        if len(levels) != len(strides) or not all(
            isinstance(one, (int, float)) and one > 0 for level in levels for one in level
        ):
            raise CheckpointError(
                f"the configuration says MODEL.ANCHOR_GENERATOR.{key} {value!r}, expected positive numbers for"
                f" {len(strides)} levels",
                hint=_HINT,
            )
        parts.append(levels)
    offset = given.get("MODEL.ANCHOR_GENERATOR.OFFSET", 0.0)
    cells = tuple(
        tuple(
            _four([offset * stride + side for side in (-w / 2, -h / 2, w / 2, h / 2)])
            for size in sizes
            for ratio in ratios
            for w, h in [(math.sqrt(size * size / ratio), ratio * math.sqrt(size * size / ratio))]
        )
        for sizes, ratios, stride in zip(*parts, strides, strict=True)
    )
    kept = [tensor for name, tensor in sorted(state.items(), key=lambda item: len(item[0])) if CELLS.fullmatch(name)]
    same = not kept or [tuple(one.shape) for one in kept] == [(len(level), 4) for level in cells]
    if kept and same and offset == 0.0:
        same = all(torch.allclose(a.float(), torch.tensor(b), atol=0.1) for a, b in zip(kept, cells, strict=True))
    if not same or any(len(level) != form.per_cell for level in cells):
        raise CheckpointError(
            f"the anchors are not those of the weights, whose RPN has {form.per_cell} at a place",
            hint=_HINT,
        )
    return cells
