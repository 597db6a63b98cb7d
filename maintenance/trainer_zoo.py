"""The Faster R-CNN configurations of Detectron2's and MMDetection's zoos, with calibrated random weights.

Which networks are the same is told by comparing configurations without what only training reads.
"""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from frcnn.benchmarks.candidates.trainer_models import Bgr, Detectron2Model, MMDetectionModel, TrainerModel
from frcnn.runtime import RGBImage

_OBJECTNESS_STD: Final = 1.0
_CLASS_LOGIT_STD: Final = 0.8
_DELTA_STD: Final = 0.1
_CANDIDATES: Final = 80  # boxes of an image whose score is above 0.05, before NMS
_BRANCH: Final = (
    0.25  # share of a residual branch: random blocks of equal shares multiply rounding, a trained network not
)
_ENDS_BRANCH: Final = re.compile(r"(^|\.)([bg]n3|conv3\.norm)$")
_ENDS_SHORT_BRANCH: Final = re.compile(r"(^|\.)[bg]n2$")  # of a block of two convolutions
_CELLS: Final = 500  # of a level that calibration looks at
_PREDICTORS: Final = {  # objectness, deltas, class scores, boxes
    "detectron2": (
        "proposal_generator.rpn_head.objectness_logits",
        "proposal_generator.rpn_head.anchor_deltas",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    ),
    "mmdetection": ("rpn_head.rpn_cls", "rpn_head.rpn_reg", "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"),
}
_TRAINING: Final = re.compile(  # of MMDetection
    r"loss|init_cfg|train_cfg|norm_eval|frozen_stages|with_cp|requires_grad|reg_decoded_bbox|pretrained|batch_augments"
)
_TRAINING_D2: Final = re.compile(
    r"WEIGHTS|FREEZE_AT|LOSS|SMOOTH_L1|BATCH_SIZE|IOU_|POSITIVE_FRACTION|_TRAIN|BOUNDARY|APPEND_GT|PRED_BOXES|DEVICE"
    r"|MASK|KEYPOINT|RETINANET|PANOPTIC|SEM_SEG|LOAD_PROPOSALS|CASCADE"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A configuration of a zoo.

    Attributes:
        trainer: whose.
        name: its path in the zoo.
        config: as the trainer reads it, or None where it does not.
        fault: why it does not.
        network: what the network is at inference, to compare.
    """

    trainer: Literal["detectron2", "mmdetection"]
    name: str
    config: Any
    fault: str = ""
    network: str = ""


def detectron2_zoo(folder: Path) -> Iterator[Configuration]:
    """Give every Faster R-CNN of Detectron2's ``configs``."""
    get_cfg: Callable[[], Any] = importlib.import_module("detectron2.config").get_cfg
    for path in sorted(folder.rglob("faster_rcnn_*.yaml")):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        read = {"model": cfg.MODEL, "input": cfg.INPUT, "most": cfg.TEST.DETECTIONS_PER_IMAGE}
        network = json.dumps(_without(json.loads(json.dumps(read)), _TRAINING_D2), sort_keys=True)
        name = path.relative_to(folder).as_posix()
        yield Configuration(trainer="detectron2", name=name, config=cfg, network=network)


def mmdetection_zoo(folder: Path) -> Iterator[Configuration]:
    """Give every Faster R-CNN of MMDetection's ``configs``, and what has its name."""
    from_file: Callable[[str], Any] = importlib.import_module("mmengine.config").Config.fromfile
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        is_named = re.search(r"faste?r?[-_]rcnn", path.name) is not None
        if name.startswith(("_base_", "common")) or not (is_named or "faster" in path.read_text("utf-8").lower()):
            continue
        try:
            config = from_file(str(path))
        except Exception as error:  # a broken configuration raises whatever its Python does
            fault = f"MMDetection itself does not read it: {type(error).__name__}"
            yield Configuration(trainer="mmdetection", name=name, config=None, fault=fault)
            continue
        model = config.get("model") or {}
        if not is_named and model.get("type") != "FasterRCNN":
            continue
        steps = [step for step in _pipeline(config) if "Load" not in str(step) and "Pack" not in str(step)]
        read = {"model": model.to_dict() if hasattr(model, "to_dict") else dict(model), "steps": steps}
        network = json.dumps(_without(json.loads(json.dumps(read, default=str)), _TRAINING), sort_keys=True)
        yield Configuration(
            trainer="mmdetection", name=name, config=config, network=network.replace("SyncBN", "BN"), fault=""
        )


def _pipeline(config: Any) -> Sequence[Any]:
    try:
        steps: Sequence[Any] = importlib.import_module("mmdet.utils").get_test_pipeline_cfg(config.copy())
    except Exception:  # a configuration without a test set
        return ()
    return steps


def _without(tree: Any, training: re.Pattern[str]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _without(value, training) for key, value in tree.items() if not training.search(key)}
    return [_without(item, training) for item in tree] if isinstance(tree, list) else tree


def with_short_side(found: Configuration, pixels: int) -> Any:
    """Return the configuration with images whose short side is so long, the long side at most 5/3 of that."""
    if found.trainer == "detectron2":
        config = found.config.clone()
        config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST = pixels, pixels * 5 // 3
        return config
    config = copy.deepcopy(found.config)
    for step in _pipeline(config):
        if "scale" in step:
            step["scale"] = (pixels * 5 // 3, pixels)
    return config


def build(trainer: str, config: Any, *, seed: int = 0) -> TrainerModel:
    """Build the trainer's own model with its own random weights, seeded."""
    torch.manual_seed(seed)
    if trainer == "detectron2":
        return Detectron2Model(config)
    model = MMDetectionModel(config)
    initialize: Callable[[], None] = model.module.init_weights  # type: ignore[assignment]
    initialize()
    return model


@torch.no_grad()
def calibrate(model: TrainerModel, trainer: str, images: Sequence[RGBImage], *, seed: int = 0) -> None:
    """Give a model weights that behave on images: unit activations, some dozens of objects of distinct scores."""
    bgr = _side_by_side(images)
    generator = torch.Generator().manual_seed(seed)
    predictors = [model.module.get_submodule(name) for name in _PREDICTORS[trainer]]
    objectness, deltas, scores, boxes = predictors
    norms = {name: module for name, module in model.module.named_modules() if _is_norm(module)}
    for name, norm in norms.items():
        weight, bias = norm.weight, norm.bias
        if isinstance(weight, Tensor) and isinstance(bias, Tensor):
            weight.uniform_(0.5, 1.5, generator=generator)
            is_short = _ENDS_SHORT_BRANCH.search(name) and f"{name[:-1]}3" not in norms
            weight.mul_(_BRANCH if is_short or _ENDS_BRANCH.search(name) else 1.0)
            bias.normal_(0, 0.2, generator=generator)
    for layer in predictors:
        for parameter in layer.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    hooks = [norm.register_forward_pre_hook(_observe) for norm in norms.values() if hasattr(norm, "running_var")]
    for first, second, std in ((objectness, deltas, _OBJECTNESS_STD), (scores, boxes, _CLASS_LOGIT_STD)):
        seen: dict[nn.Module, list[Tensor]] = {first: [], second: []}
        watching = [layer.register_forward_hook(_keeper(kept)) for layer, kept in seen.items()]
        watching += [
            layer.register_forward_pre_hook(_Centred())
            for name, layer in model.module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None and layer not in predictors
            if first is objectness or name.startswith("roi_head")
        ]
        model.boxes(bgr)
        _remove(watching)
        rescaled = _rescale(first, _rows(seen[first], generator), std)
        _rescale(second, _rows(seen[second], generator), _DELTA_STD if first is objectness else 5 * _DELTA_STD)
        if first is scores:
            assert isinstance(scores.bias, Tensor)
            scores.bias[-1] += _background(rescaled)
    _remove(hooks)


def _side_by_side(images: Sequence[RGBImage]) -> Bgr:
    """Return one image of all, so that what is calibrated holds for each."""
    height, width = images[0].size
    return np.concatenate([cv2.resize(image.pixels[..., ::-1], (width, height)) for image in images[:4]])


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and hasattr(module, "weight") and hasattr(module, "bias")


def _observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set a batch normalisation's statistics to those of what it is about to see."""
    (x,) = inputs
    assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
    variance = x.var((0, 2, 3), unbiased=False)
    module.running_mean.copy_(x.mean((0, 2, 3)))
    module.running_var.copy_(variance.clamp(min=max(1e-3, float(variance.mean()) / 100)))


class _Centred:
    """Scales and shifts a layer without a norm, before its first call, to outputs of mean 0 and deviation 1.

    What all cells and RoIs have in common would else hide what tells them apart, and rounding with it.
    """

    done = False

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.done:
            return
        self.done, weight, bias = True, module.weight, module.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        if not weight.any():  # begins as zeros, as the end of a non-local block
            weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
        is_linear = isinstance(module, nn.Linear)
        outputs = (F.linear if is_linear else module._conv_forward)(inputs[0], weight, bias)  # type: ignore[operator]
        rows = outputs.movedim(1, -1).flatten(0, -2)
        std = rows.std(0)
        std.clamp_(min=float(std.mean()) / 100)
        weight.div_(std.view(-1, *(1 for _ in weight.shape[1:])))
        bias.sub_(rows.mean(0)).div_(std)


def _keeper(kept: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda _module, _inputs, output: kept.append(output.detach())


def _rows(outputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Return outputs as rows (N, channels): RoIs, or some cells of each level."""
    rows = [level.movedim(1, -1).reshape(-1, level.shape[1]) for level in outputs]
    return torch.cat([level[torch.randperm(len(level), generator=generator)[:_CELLS]] for level in rows])


def _rescale(layer: nn.Module, outputs: Tensor, std: float) -> Tensor:
    """Scale and shift a layer so that every output has mean 0, and all together the standard deviation; return them."""
    mean = outputs.mean(0)
    scale = std / float((outputs - mean).std().clamp(min=1e-12))
    assert isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor)
    layer.weight.mul_(scale)
    layer.bias.sub_(mean).mul_(scale)
    return (outputs - mean) * scale


def _background(logits: Tensor) -> float:
    """Return what the background's logit is raised by, so that the wanted number of boxes is left of 1000."""
    low, high = -20.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        raised = logits.clone()
        raised[:, -1] += middle
        left = int((raised.softmax(-1)[:, :-1] > 0.05).sum()) * 1000 / len(logits)
        low, high = (middle, high) if left > _CANDIDATES else (low, middle)
    return high


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


def save(model: TrainerModel, trainer: str, config: Any, folder: Path) -> tuple[Path, Path]:
    """Write the checkpoint in the trainer's two forms: as its zoo publishes it, and as a training run leaves it.

    Detectron2's have their configuration beside them, MMDetection's have it inside.
    """
    if trainer == "detectron2":
        return _save_detectron2(model, config, folder)
    return _save_mmdetection(model, config, folder)


def _save_detectron2(model: TrainerModel, cfg: Any, folder: Path) -> tuple[Path, Path]:
    (folder / "config.yaml").write_text(cfg.dump(), "utf-8")
    arrays = {name: tensor.numpy() for name, tensor in model.module.state_dict().items()}
    cells = model.module.get_submodule("proposal_generator.anchor_generator.cell_anchors").buffers()
    arrays |= {f"proposal_generator.anchor_generator.cell_anchors.{i}": cell.numpy() for i, cell in enumerate(cells)}
    arrays |= {name: getattr(model.module, name).numpy() for name in ("pixel_mean", "pixel_std")}
    published = folder / "model_final.pkl"
    with published.open("wb") as stream:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, stream)
    checkpointer = importlib.import_module("detectron2.checkpoint").DetectionCheckpointer(model.module, str(folder))
    checkpointer.save("model_final", iteration=89999)
    return published, folder / "model_final.pth"


def _save_mmdetection(model: TrainerModel, config: Any, folder: Path) -> tuple[Path, Path]:
    history = importlib.import_module("mmengine.logging").MessageHub("trial")
    history.update_scalar("train/loss", 0.5)
    meta = {"cfg": config.pretty_text, "epoch": 12, "iter": 87960, "seed": 0, "mmengine_version": "0.10.7"}
    if classes := _classes(config):
        meta["dataset_meta"] = {"classes": classes}
    content = {"meta": meta, "state_dict": model.module.state_dict()}
    published, left = folder / "published.pth", folder / "epoch_12.pth"
    torch.save(content, published)
    torch.save(content | {"message_hub": history.state_dict()}, left)
    return published, left


def _classes(config: Any) -> tuple[str, ...]:
    """Return the names of the classes that the model has, or none where the data set has others."""
    data = config.test_dataloader.dataset
    while "dataset" in data or "datasets" in data:
        data = data.get("dataset") or data["datasets"][0]
    own = importlib.import_module("mmdet.registry").DATASETS.get(data.type)
    meta = {**(getattr(own, "METAINFO", None) or {}), **(data.get("metainfo") or {})}
    names = tuple(meta.get("classes") or ())
    head = config.model.get("roi_head", {}).get("bbox_head", {})
    return names if isinstance(head, Mapping) and len(names) == head.get("num_classes") else ()
