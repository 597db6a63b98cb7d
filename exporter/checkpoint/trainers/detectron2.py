"""Convert checkpoints of Detectron2: weights by its names, and its configuration where there is one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from frcnn.errors import CheckpointError, UnsupportedModelError
from frcnn.exporter.checkpoint.trainers.detectron2_settings import (
    CELLS,
    Form,
    Values,
    flat,
    require_agreement,
    require_restated,
    settings_of,
    zoo_of,
)
from frcnn.exporter.checkpoint.trainers.settings import Converted
from frcnn.spec import BACKGROUND

_SCORES: Final = "roi_heads.box_predictor.cls_score.weight"
_BOXES: Final = "roi_heads.box_predictor.bbox_pred.weight"
_OBJECTNESS: Final = "rpn.head.cls_logits.weight"
_NEEDED: Final = ("backbone.body.conv1.weight", "backbone.body.layer1.0.conv2.weight", _OBJECTNESS, _SCORES, _BOXES)
_BLOCKS: Final = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}

_PIXELS: Final = ("pixel_mean", "pixel_std")  # which earlier versions kept with the weights

_STAGE: Final = r"backbone\.(?:bottom_up\.)?"
_NAMES: Final[tuple[tuple[str, str], ...]] = (
    (rf"{_STAGE}stem\.conv1\.norm", "backbone.body.bn1"),
    (rf"{_STAGE}stem\.conv1", "backbone.body.conv1"),
    *(
        (rf"{where}\.(\d+)\.{old}", rf"{there}.{block}.{new}")
        for where, there, block in (
            *((rf"{_STAGE}res{i + 1}", f"backbone.body.layer{i}", r"\1") for i in range(1, 5)),
            (r"roi_heads\.res5", "roi_heads.box_head.layer4", r"\1"),
        )
        for old, new in (
            (r"conv(\d)\.norm", r"bn\2"),
            (r"conv(\d)", r"conv\2"),
            (r"shortcut\.norm", "downsample.1"),
            (r"shortcut", "downsample.0"),
        )
    ),
    (r"proposal_generator\.rpn_head\.conv", "rpn.head.conv.0.0"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d+)", r"rpn.head.conv.\1.0"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn.head.cls_logits"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn.head.bbox_pred"),
    (r"roi_heads\.box_predictor\.(cls_score|bbox_pred)", r"roi_heads.box_predictor.\1"),
)
_COUNTED: Final[tuple[tuple[str, str], ...]] = (  # their numbers are counted from 0 here
    (r"backbone\.fpn_lateral(\d)", "backbone.fpn.inner_blocks.{}.0"),
    (r"backbone\.fpn_lateral(\d)\.norm", "backbone.fpn.inner_blocks.{}.1"),
    (r"backbone\.fpn_output(\d)", "backbone.fpn.layer_blocks.{}.0"),
    (r"backbone\.fpn_output(\d)\.norm", "backbone.fpn.layer_blocks.{}.1"),
    (r"roi_heads\.box_head\.conv(\d{1,2})", "roi_heads.box_head.convs.{}.0"),
    (r"roi_heads\.box_head\.conv(\d{1,2})\.norm", "roi_heads.box_head.convs.{}.1"),
    (r"roi_heads\.box_head\.fc(\d{1,2})", "roi_heads.box_head.fcs.{}"),
)
_PART: Final = r"\.(weight|bias|running_mean|running_var)"

_REFUSED: Final[tuple[tuple[str, str], ...]] = (
    (".conv2_offset.", "deformable convolutions sample where the image tells them to"),
    ("roi_heads.box_head.0.", "Cascade R-CNN has a chain of box heads"),
    ("anchor_generator.cell_anchors", "its anchors are not of the plain kind"),
)


_DATASETS: Final = {
    r"coco_20\d\d_.*": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,  # its names are by COCO's ids, some of which are unused
    r"voc_20\d\d_.*": DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
}


def convert(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None, *, labels: Sequence[str] | None = None
) -> Converted:
    """Return weights and settings of a Faster R-CNN that Detectron2 trained.

    Args:
        state: weights by Detectron2's names.
        config: its configuration, as ``read_config`` returns it; without one, that of its zoo is assumed.
        labels: names of the classes; by default those of COCO or Pascal VOC, if the configuration names such a dataset.

    Raises:
        UnsupportedModelError: a part of the detector has no deployable form; it is named, with the reason.
        CheckpointError: the configuration contradicts the weights, or cannot be understood.
    """
    renamed = _renamed(state)
    form = _form(renamed, state)
    given = Values(zoo_of(form) if config is None else flat(config))
    if config is not None:
        require_restated(given)
        require_agreement(form, given)
    settings = settings_of(form, given, state)
    if labels is None and config is not None:
        labels = _class_names(given.get("DATASETS.TRAIN", ()), form.classes)
    named = None if labels is None else tuple(labels)
    return Converted(settings=replace(settings, labels=named), state=renamed)


def _class_names(datasets: Sequence[object], classes: int) -> tuple[str, ...] | None:
    """Return the names without the background, if all datasets are of one kind that has as many classes."""
    for pattern, weights in _DATASETS.items():
        if datasets and all(isinstance(name, str) and re.fullmatch(pattern, name) for name in datasets):
            names = tuple(name for name in weights.meta["categories"] if name not in (BACKGROUND, "N/A"))
            return names if len(names) == classes else None
    return None


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of ``networks``; raise UnsupportedModelError for those of other parts."""
    plain = [(re.compile(pattern + _PART), new) for pattern, new in _NAMES]
    counted = [(re.compile(pattern + _PART), new) for pattern, new in _COUNTED]
    first = min((int(n) for name in state for n in re.findall(r"fpn_lateral(\d)\.", name)), default=0)
    renamed, unknown = {}, []
    for name, tensor in state.items():
        found = next(((m, new) for pattern, new in plain if (m := pattern.fullmatch(name))), None)
        numbered = next(((m, new) for pattern, new in counted if (m := pattern.fullmatch(name))), None)
        if found is not None:
            renamed[f"{found[0].expand(found[1])}.{found[0][found[0].re.groups]}"] = tensor
        elif numbered is not None:
            number = int(numbered[0][1]) - (first if "fpn" in name else 1)
            renamed[f"{numbered[1].format(number)}.{numbered[0][2]}"] = tensor
        elif not (CELLS.fullmatch(name) or name in _PIXELS or name.endswith(".num_batches_tracked")):
            unknown.append(name)
    if unknown:
        why = next((why for part, why in _REFUSED for name in unknown if part in name), "")
        raise UnsupportedModelError(
            f"{len(unknown)} weights have no place in a plain Faster R-CNN, {unknown[0]} first{why and ': ' + why}",
            hint="only Faster R-CNN of plain layers is exported",
        )
    missing = [name for name in _NEEDED if name not in renamed]
    if missing:
        what = "only a part of a detector" if _SCORES in renamed or _OBJECTNESS in renamed else "no detector"
        raise CheckpointError(f"the weights are {what}: they lack {', '.join(missing)}", hint="save the whole detector")
    return renamed


def _form(renamed: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Form:
    def count(prefix: str) -> int:
        return len({name[len(prefix) :].partition(".")[0] for name in renamed if name.startswith(prefix)})

    levels = sorted({int(n) for name in state for n in re.findall(r"^backbone\.fpn_lateral(\d)\.", name)})
    is_c4 = any(name.startswith("roi_heads.box_head.layer4.") for name in renamed)
    blocks = [count(f"backbone.body.layer{i}.") for i in range(1, 4 if is_c4 else 5)]
    depth = next((depth for counts, depth in _BLOCKS.items() if list(counts[: len(blocks)]) == blocks), None)
    spatial = renamed["backbone.body.layer1.0.conv2.weight"]
    if depth == 50 and "backbone.body.layer1.0.conv3.weight" not in renamed:
        depth = 34
    out, classes = spatial.shape[0], renamed[_SCORES].shape[0] - 1
    inner = renamed["backbone.body.layer1.0.conv1.weight"].shape[0]
    return Form(
        kind="C4" if is_c4 else "FPN" if levels else "DC5",
        depth=depth,
        groups=inner // spatial.shape[1],
        width=out // (inner // spatial.shape[1]),
        group_norm="backbone.body.bn1.running_mean" not in renamed,
        levels=tuple(levels),
        classes=classes,
        agnostic=None if classes == 1 else renamed[_BOXES].shape[0] == 4,
        convs=count("roi_heads.box_head.convs."),
        fcs=count("roi_heads.box_head.fcs."),
        per_cell=renamed[_OBJECTNESS].shape[0],
    )
