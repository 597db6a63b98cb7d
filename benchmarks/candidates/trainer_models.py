"""The models of Detectron2 and MMDetection themselves, where these are installed: eager as the trainer runs it.

A configuration is data here: none of its text is run, and a name that its registry would import is refused.
"""

from __future__ import annotations

import copy
import importlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frcnn.benchmarks.candidates.candidate import CannotRunError, Runner, Task, reason_of
from frcnn.exporter.checkpoint.file import read_checkpoint_file
from frcnn.exporter.checkpoint.layout import find_weights
from frcnn.exporter.checkpoint.trainers.config import read_config, read_python_config
from frcnn.exporter.checkpoint.trainers.foreign import NAMES
from frcnn.packages import installed_version, is_installed
from frcnn.runtime import Detections, RGBImage

Bgr = NDArray[np.uint8]
_PACKAGES: Final = {"detectron2": ("detectron2",), "mmdetection": ("mmdet", "mmcv", "mmengine")}
_NOT_WEIGHTS: Final = re.compile(r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|cell_anchors\.\d+)$")


class TrainerModel(ABC):
    """A detector of the trainer's own classes in eval mode, and its own way from a photograph to boxes."""

    title: str
    module: nn.Module

    @abstractmethod
    def boxes(self, bgr: Bgr) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (K, 4) in pixels of the image (H, W, 3), scores (K) and classes (K) from 0."""

    def detect(self, image: RGBImage, labels: tuple[str, ...] | None = None) -> Detections:
        """Detect in an image; classes are counted from 1, as frcnn's are."""
        pixels = np.ascontiguousarray(image.pixels[..., ::-1], dtype=np.uint8)
        with torch.no_grad():
            boxes, scores, classes = (values.cpu().numpy() for values in self.boxes(pixels))
        return Detections(
            boxes=boxes.astype(np.float32),
            scores=scores.astype(np.float32),
            labels=classes.astype(np.int64) + 1,
            image_size=image.size,
            source=image.source,
            label_names=labels,
        )

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights by the trainer's names; CannotRunError names the first one that is of another model."""
        own, given = (
            {name: tensor for name, tensor in tensors.items() if not _NOT_WEIGHTS.search(name)}
            for tensors in (self.module.state_dict(), state)
        )
        other = sorted(own.keys() ^ given.keys()) or [name for name in own if own[name].shape != given[name].shape]
        if other:
            raise CannotRunError(f"the checkpoint is of another model than its configuration: {other[0]}")
        self.module.load_state_dict(given, strict=False)


class Detectron2Model(TrainerModel):
    """A model by a configuration of Detectron2 (a ``CfgNode``), in its ``DefaultPredictor``."""

    def __init__(self, cfg: Any, device: str = "cpu") -> None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.DATASETS.TEST = device, "", ()
        self.title = title_of("detectron2")
        with _quiet():
            self._predictor = importlib.import_module("detectron2.engine.defaults").DefaultPredictor(cfg)
        self.module = self._predictor.model

    def boxes(self, bgr: Bgr) -> tuple[Tensor, Tensor, Tensor]:
        """Detect as ``DefaultPredictor`` does."""
        found = self._predictor(bgr)["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes


class MMDetectionModel(TrainerModel):
    """A model by a configuration of MMDetection (an MMEngine ``Config``), in its ``inference_detector``."""

    def __init__(self, config: Any, device: str = "cpu") -> None:
        importlib.import_module("mmengine.registry").init_default_scope("mmdet")
        apis = importlib.import_module("mmdet.apis.inference")
        config = copy.deepcopy(config)  # building changes it
        for part in _parts(config._cfg_dict):
            if part.get("init_cfg") is not None:
                part["init_cfg"] = None  # weights from the web
        self.title = title_of("mmdetection")
        with _quiet():
            built = importlib.import_module("mmdet.registry").MODELS.build(config.model)
            self.module = importlib.import_module("mmengine.model.utils").revert_sync_batchnorm(built)
            pipeline = importlib.import_module("mmdet.utils").get_test_pipeline_cfg(config.copy())
            pipeline[0].type = "mmdet.LoadImageFromNDArray"
            self._pipeline = importlib.import_module("mmcv.transforms").Compose(pipeline)
        self.module.to(device).eval()
        self.module.cfg = config
        self._infer: Callable[..., Any] = apis.inference_detector

    def boxes(self, bgr: Bgr) -> tuple[Tensor, Tensor, Tensor]:
        """Detect as ``inference_detector`` does with the configuration's test pipeline."""
        found = self._infer(self.module, bgr, self._pipeline).pred_instances
        return found.bboxes, found.scores, found.labels


class OwnRunner(Runner):
    """The trainer's own model as a candidate."""

    def __init__(self, task: Task, model: TrainerModel) -> None:
        super().__init__(task.spec)
        self._model = model

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in images, one after the other."""
        return [self._model.detect(image, self.spec.labels) for image in images]

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Refuse: preprocessing is part of the call."""
        raise CannotRunError(f"{self._model.title} preprocesses within the call")


def own_model(trainer: str, checkpoint: Path, config: Path | None, *, device: str = "cpu") -> TrainerModel:
    """Build the trainer's own model of a checkpoint; nothing of either file is run.

    Raises CannotRunError: the trainer is not installed, or its configuration is missing or of another model.
    """
    if reason := missing(trainer):
        raise CannotRunError(reason)
    found = find_weights(read_checkpoint_file(checkpoint)[0], source=str(checkpoint))
    if config is None and (found.config is None or trainer == "detectron2"):
        raise CannotRunError("its configuration is needed: --config")
    said = read_config(config) if config else read_python_config(found.config or "", source=str(checkpoint))
    if imported := [kind for part in _parts(said) if "." in (kind := str(part.get("type", "")))]:
        raise CannotRunError(f"its configuration names code to import: {imported[0]}")
    try:
        if trainer == "detectron2":
            cfg = importlib.import_module("detectron2.config").get_cfg()
            cfg.merge_from_other_cfg(type(cfg)(said))
            model: TrainerModel = Detectron2Model(cfg, device)
        else:
            model = MMDetectionModel(importlib.import_module("mmengine.config").Config(said), device)
        model.load(found.state)
    except CannotRunError:
        raise
    except Exception as error:  # whatever the trainer raises is the reason
        raise CannotRunError(f"{title_of(trainer)} does not build it: {reason_of(error)}") from error
    return model


def title_of(trainer: str) -> str:
    """Return the trainer and the version that is installed; without one where it is not."""
    package = _PACKAGES[trainer][0]
    version = installed_version(package)
    if not version and is_installed(package):  # imported from its sources
        version = str(getattr(importlib.import_module(package), "__version__", ""))
    return f"{NAMES[trainer]} {version}".strip()


def eager_title(trainer: str, own: TrainerModel | None = None) -> str:
    """Return what the eager form of a model is called: the trainer's own, or ours."""
    if own is not None:
        return f"eager: {own.title}'s own model"
    return "eager torchvision" if trainer == "torchvision" else f"eager: our restatement of {NAMES[trainer]}'s model"


def missing(trainer: str) -> str:
    """Return why the trainer's own model cannot run here, or nothing."""
    absent = [package for package in _PACKAGES[trainer] if not is_installed(package)]
    return f"{absent[0]} is not installed" if absent else ""


def _parts(config: Any) -> Iterator[Any]:
    """Give every dictionary inside a configuration."""
    if isinstance(config, Mapping):
        yield config
    if isinstance(config, Mapping | list | tuple):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _parts(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the trainers' own lines about building off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
