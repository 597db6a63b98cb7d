"""Convert checkpoints of MMDetection 2 and 3: weights by its names, and its configuration where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from frcnn.errors import CheckpointError, UnsupportedModelError
from frcnn.exporter.checkpoint.trainers.mmdetection_parts import CONFIG_HINT, ONLY_PLAIN, WHY_WEIGHTS, Part
from frcnn.exporter.checkpoint.trainers.mmdetection_settings import read_model, read_necks, read_settings
from frcnn.exporter.checkpoint.trainers.settings import Converted, Settings

_WS_EPS: Final = 1e-5
_SCORES: Final = "roi_heads.box_predictor.cls_score.weight"
_FPN: Final = "backbone.fpn"

_NEEDED: Final = (
    *("rpn.head.conv.0.0.weight", "rpn.head.cls_logits.weight", "rpn.head.bbox_pred.weight"),
    *(_SCORES, "roi_heads.box_predictor.bbox_pred.weight"),
)

_RESNETS: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

_LEFT_OUT: Final = re.compile(r"ema_|data_preprocessor\.|.*\.num_batches_tracked$")

_BLOCK: Final = r"(?:layer\d|stage\d\.\d\.branches\.\d)\.\d+"

_NAMES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(rf"{pattern}\.(weight|bias|running_mean|running_var)"), name)
    for pattern, name in (
        (r"backbone\.(?:bn|gn)([12])", r"backbone.body.bn\1"),
        (r"backbone\.(conv[12]|stem\.\d)", r"backbone.body.\1"),
        (r"backbone\.(transition\d(?:\.\d)+|stage\d\.\d\.fuse_layers(?:\.\d)+)", r"backbone.body.\1"),
        (rf"backbone\.({_BLOCK})\.(?:bn|gn)(\d)", r"backbone.body.\1.bn\2"),
        (rf"backbone\.({_BLOCK}\.(?:conv\d|(?:downsample|convs|bns)\.\d))", r"backbone.body.\1"),
        (r"roi_head\.shared_head\.(layer4\.\d+)\.(?:bn|gn)(\d)", r"roi_heads.box_head.\1.bn\2"),
        (r"roi_head\.shared_head\.(layer4\.\d+\.(?:conv\d|downsample\.\d))", r"roi_heads.box_head.\1"),
        (r"neck\.(?:0\.)?lateral_convs\.(\d)\.conv", rf"{_FPN}.inner_blocks.\1.0"),
        (r"neck\.(?:0\.)?lateral_convs\.(\d)\.(?:bn|gn)", rf"{_FPN}.inner_blocks.\1.1"),
        (r"neck\.(?:0\.)?fpn_convs\.(\d)\.conv", rf"{_FPN}.layer_blocks.\1.0"),
        (r"neck\.(?:0\.)?fpn_convs\.(\d)\.(?:bn|gn)", rf"{_FPN}.layer_blocks.\1.1"),
        (r"neck\.reduction_conv\.conv", rf"{_FPN}.reduction_conv"),
        (r"neck\.((?:downsample|pafpn)_convs\.\d)\.conv", rf"{_FPN}.\1.0"),
        (r"neck\.((?:downsample|pafpn)_convs\.\d)\.(?:bn|gn)", rf"{_FPN}.\1.1"),
        (r"neck\.1\.refine\.(g|theta|phi|conv_out)\.conv", rf"{_FPN}.refine.\1"),
        (r"rpn_head\.rpn_conv", "rpn.head.conv.0.0"),
        (r"rpn_head\.rpn_conv\.(\d)\.conv", r"rpn.head.conv.\1.0"),
        (r"rpn_head\.rpn_cls", "rpn.head.cls_logits"),
        (r"rpn_head\.rpn_reg", "rpn.head.bbox_pred"),
        (r"roi_head\.bbox_head\.shared_convs\.(\d)\.conv", r"roi_heads.box_head.convs.\1.0"),
        (r"roi_head\.bbox_head\.shared_convs\.(\d)\.(?:bn|gn)", r"roi_heads.box_head.convs.\1.1"),
        (r"roi_head\.bbox_head\.shared_fcs\.(\d)", r"roi_heads.box_head.fcs.\1"),
        (r"roi_head\.bbox_head\.fc_cls", "roi_heads.box_predictor.cls_score"),
        (r"roi_head\.bbox_head\.fc_reg", "roi_heads.box_predictor.bbox_pred"),
    )
)
"""Patterns of MMDetection's names of modules, and the names here."""

_ZOO: Final[Mapping[str, Any]] = {
    "model": {
        "type": "FasterRCNN",
        "data_preprocessor": {
            "mean": (123.675, 116.28, 103.53),
            "std": (58.395, 57.12, 57.375),
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": {"type": "ResNet"},
        "neck": {"type": "FPN"},
        "rpn_head": {"anchor_generator": {"scales": (8,), "ratios": (0.5, 1, 2), "strides": (4, 8, 16, 32, 64)}},
        "roi_head": {
            "bbox_roi_extractor": {
                "roi_layer": {"type": "RoIAlign", "output_size": 7},
                "featmap_strides": (4, 8, 16, 32),
            }
        },
        "test_cfg": {
            "rpn": {"nms_pre": 1000, "max_per_img": 1000, "nms": {"iou_threshold": 0.7}},
            "rcnn": {"score_thr": 0.05, "max_per_img": 100, "nms": {"iou_threshold": 0.5}},
        },
    },
    "test_pipeline": ({"type": "Resize", "scale": (1333, 800), "keep_ratio": True},),
}
"""What MMDetection's R50-FPN in PyTorch style has, for weights without a configuration."""


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None, *, labels: Sequence[str] | None
) -> Converted:
    """Return weights and settings of a Faster R-CNN that MMDetection trained.

    Args:
        state: weights by MMDetection's names.
        config: its configuration, as the checkpoint has it; without one, that of its R50-FPN is assumed.
        labels: names of the classes, as the checkpoint has them.

    Raises:
        UnsupportedModelError: a part of the detector has no deployable form; it is named, with the reason.
        CheckpointError: the configuration contradicts the weights, or cannot be read.
    """
    if config is None:
        renamed = _renamed(state)
        _require_assumable(renamed)
        settings = read_settings(_ZOO, read_model(_ZOO), "R-FPN")
    else:
        model = read_model(config)
        settings = read_settings(config, model, _architecture(model))
        renamed = _standardised(_renamed(state), model)
        _require_agreement(renamed, model, settings)
    classes = len(renamed[_SCORES]) - 1
    named = None if labels is None else (labels,) if isinstance(labels, str) else tuple(labels)
    if named is not None and len(named) != classes:
        raise CheckpointError(
            f"the checkpoint names {len(named)} classes, its box predictor has {classes}",
            hint="name them yourself (--labels)",
        )
    return Converted(settings=replace(settings, labels=named), state=renamed)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names here; raise UnsupportedModelError for names of other parts."""
    renamed, unknown = {}, []
    for name, tensor in state.items():
        found = next(((m, new) for pattern, new in _NAMES if (m := pattern.fullmatch(name))), None)
        if found is not None:
            match, new = found
            renamed[f"{match.expand(new)}.{match[match.re.groups]}"] = tensor
        elif not _LEFT_OUT.match(name):
            unknown.append(name)
    if unknown:
        why = next((why for part, why in WHY_WEIGHTS.items() for name in unknown if part in name), "")
        raise UnsupportedModelError(
            f"{len(unknown)} weights have no place in a plain Faster R-CNN, {unknown[0]} first{why and ': ' + why}",
            hint=ONLY_PLAIN,
        )
    missing = [name for name in _NEEDED if name not in renamed]
    if missing:
        raise CheckpointError(f"the weights lack {', '.join(missing)}", hint="save the whole detector")
    return renamed


def _standardised(state: Mapping[str, Tensor], model: Part) -> dict[str, Tensor]:
    """Fold weight standardisation, which MMDetection computes at every call, into the convolutions that have it."""
    parts = {
        "backbone.body.": model.part("backbone"),
        "roi_heads.box_head.convs.": model.part("roi_head").part("bbox_head"),
    }
    parts |= {f"{_FPN}.": neck for neck in read_necks(model)[:1]}
    prefixes = tuple(prefix for prefix, part in parts.items() if part.part("conv_cfg").kind == "ConvWS")
    return {name: _standard(t) if name.startswith(prefixes) and t.ndim == 4 else t for name, t in state.items()}


def _standard(weight: Tensor) -> Tensor:
    """Return each filter less its mean, by its standard deviation (arXiv:1903.10520)."""
    filters = weight.flatten(1).float()
    std, mean = torch.std_mean(filters, dim=1, keepdim=True)
    return ((filters - mean) / (std + _WS_EPS)).reshape(weight.shape)


def _require_assumable(state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for weights of which nothing can be assumed without a configuration."""
    is_pyramid = sum(name.startswith(f"{_FPN}.inner_blocks.") and name.endswith(".0.weight") for name in state) == 4
    is_batch_norm = any(name.startswith("backbone.body.layer1.0.") and name.endswith("running_var") for name in state)
    stem = state.get("backbone.body.conv1.weight")
    is_resnet = stem is None or stem.shape[-1] == 7
    if not (is_pyramid and is_batch_norm and is_resnet and len(state["rpn.head.cls_logits.weight"]) == 3):
        raise CheckpointError(
            "the checkpoint has no configuration, and its weights are not those of MMDetection's ResNet-FPN",
            hint=CONFIG_HINT,
        )


def _architecture(model: Part) -> str:
    """Return a name for people, such as ``"R50-FPN"``."""
    backbone = model.part("backbone")
    depth, arch = backbone.data.get("depth"), str(backbone.data.get("arch", ""))
    names = {
        "ResNet": f"R{depth}",
        "ResNeXt": f"X{depth}-{backbone.count('groups', 1)}x{backbone.count('base_width', 4)}d",
        "ResNetV1d": f"R{depth}-D",
        "Res2Net": f"Res2Net-{depth}",
        "RegNet": "RegNet" + arch.removeprefix("regnet").upper().replace("_", "-"),
    }
    body = names.get(backbone.kind, backbone.kind)
    necks = [neck.kind for neck in read_necks(model)]
    if model.part("roi_head").part("shared_head").data:
        necks = ["C4"]
    return "-".join((body, *(necks or [f"{'D' if 2 in backbone.counts('dilations', (1,)) else ''}C5"])))


def _require_agreement(state: Mapping[str, Tensor], model: Part, settings: Settings) -> None:
    """Raise CheckpointError for the first thing that the configuration says and the weights contradict."""
    for what, said, found in _compared(state, model, settings):
        if said != found:
            raise CheckpointError(
                f"the configuration contradicts the weights: {what}: it says {said}, they have {found}",
                hint=CONFIG_HINT,
            )


def _compared(state: Mapping[str, Tensor], model: Part, settings: Settings) -> Iterator[tuple[str, object, object]]:
    """Yield what is stated by both: for people, by the configuration, by the weights."""
    backbone, roi_head, necks = model.part("backbone"), model.part("roi_head"), read_necks(model)
    head, body = roi_head.part("bbox_head"), "backbone.body.layer"
    classes = len(state[_SCORES]) - 1
    yield "classes", head.count("num_classes", 80), classes
    agnostic = bool(head.data.get("reg_class_agnostic", False))
    yield "box deltas", 4 if agnostic else 4 * classes, len(state["roi_heads.box_predictor.bbox_pred.weight"])
    yield "anchors of a cell", len(settings.anchors[0]), len(state["rpn.head.cls_logits.weight"])
    stages = [len({name.split(".")[3] for name in state if name.startswith(f"{body}{i}.")}) for i in range(1, 5)]
    if backbone.kind not in ("RegNet", "HRNet"):
        depth = backbone.count("depth")
        said = _RESNETS.get(depth, ())[: backbone.count("num_stages", 4)]
        yield "blocks of the backbone's stages", list(said), [count for count in stages if count]
        yield "convolutions of a block", 2 if depth < 50 else 3, 3 if f"{body}1.0.conv3.weight" in state else 2
        if f"{body}1.0.conv2.weight" in state:
            out, per_group = state[f"{body}1.0.conv2.weight"].shape[:2]
            yield "groups", backbone.count("groups", 1) if backbone.kind == "ResNeXt" else 1, out // per_group
    norm = backbone.part("norm_cfg").kind or "BN"
    yield "norms", "GN" if norm == "GN" else "BN", "BN" if any(name.endswith("running_var") for name in state) else "GN"
    if necks:
        said, into = (
            necks[0].counts("in_channels"),
            [
                tensor.shape[1]
                for name, tensor in state.items()
                if re.fullmatch(rf"{_FPN}\.(inner_blocks\.\d\.0|reduction_conv)\.weight", name)
            ],
        )
        yield "channels into the neck", [sum(said)] if necks[0].kind == "HRFPN" else list(said), into
        yield "levels of the neck", necks[0].count("num_outs", 5), len(settings.anchors)
    else:
        yield "neck", "none", "FPN" if any(name.startswith(f"{_FPN}.") for name in state) else "none"
    first = state.get("roi_heads.box_head.fcs.0.weight")
    if first is not None:
        convs = [t for name, t in state.items() if name.startswith("roi_heads.box_head.convs.") and t.ndim == 4]
        wide = len(convs[-1]) if convs else state["rpn.head.conv.0.0.weight"].shape[1]
        yield "inputs of the box head", wide * settings.pool_size**2, first.shape[1]
