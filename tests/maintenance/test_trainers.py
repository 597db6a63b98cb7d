"""The page of the zoos, the random weights of their models, and the trainers' own models."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from maintenance import trainers
from maintenance.committed import ZooRow, read_committed
from maintenance.performance_page import _render, zoo_outcome
from maintenance.trainer_zoo import Configuration, calibrate
from support.tiny_detector import build, noise
from torch import Tensor, nn

from frcnn.benchmarks.candidates import trainer_models
from frcnn.benchmarks.candidates.candidate import CannotRunError
from frcnn.benchmarks.candidates.eager_detector import run_network
from frcnn.benchmarks.candidates.trainer_models import TrainerModel, own_model
from frcnn.benchmarks.commands.reference import own_reference
from frcnn.errors import CheckpointError
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import RGBImage

AGREEMENT = {"pairs": 300, "tied": 2, "unmatched": 0, "relabelled": 0, "box_px": 0.004, "score": 1e-6, "agrees": True}
RUN = {"images": 20, "detections": 302, "agreement": AGREEMENT}
ROWS: list[dict[str, Any]] = [
    {"trainer": "detectron2", "configuration": "a/x_1x.yaml", "outcome": "agrees", **RUN},
    {"trainer": "detectron2", "configuration": "a/x_3x.yaml", "outcome": "same network", "same_as": "a/x_1x.yaml"},
    {"trainer": "mmdetection", "configuration": "dcn/y.py", "outcome": "refused", "reason": "no deformable layers"},
    {
        **{"trainer": "mmdetection", "configuration": "gn/z.py", "outcome": "differs", **RUN},
        **{"agreement": AGREEMENT | {"unmatched": 2, "agrees": False}, "in_float64": AGREEMENT | {"unmatched": 3}},
    },
]


class Tiny(TrainerModel):
    """A detector of MMDetection's names: an RPN whose proposals are a grid, and a box head."""

    def __init__(self) -> None:
        self.title = "Tiny 1.0"
        torch.manual_seed(1)
        head = nn.ModuleDict({"shared": nn.Linear(8, 16), "fc_cls": nn.Linear(16, 6), "fc_reg": nn.Linear(16, 20)})
        self.module = nn.ModuleDict(
            {
                "backbone": nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU()),
                "rpn_head": nn.ModuleDict({"rpn_cls": nn.Conv2d(8, 3, 1), "rpn_reg": nn.Conv2d(8, 12, 1)}),
                "roi_head": nn.ModuleDict({"bbox_head": head}),
            }
        ).eval()

    def boxes(self, bgr: Any) -> tuple[Tensor, Tensor, Tensor]:
        images = torch.from_numpy(bgr.copy()).permute(2, 0, 1)[None].float()
        features = self.module.get_submodule("backbone")(images)
        for name in ("rpn_cls", "rpn_reg"):
            self.module.get_submodule(f"rpn_head.{name}")(features)
        head = self.module.get_submodule("roi_head.bbox_head")
        rois = features.flatten(2)[0].T.relu()
        hidden = head.get_submodule("shared")(rois).relu()
        head.get_submodule("fc_reg")(hidden)
        scores, classes = head.get_submodule("fc_cls")(hidden).softmax(-1)[:, :-1].max(-1)
        kept = scores > 0.05
        return torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(int(kept.sum()), 4), scores[kept], classes[kept]


def image(seed: int) -> RGBImage:
    return RGBImage(pixels=noise(seed, 60, 80), name=str(seed))


def test_the_page_counts_outcomes_and_shows_the_reason(tmp_path: Path) -> None:
    limits = {"limit_px": 0.01, "limit_score": 1e-4, "weights": "random", "trainers": {"detectron2": "Detectron2 0.6"}}
    report = {"environment": {"command": "made by hand", "date": "2026-11-28"}, "configurations": ROWS, **limits}
    (tmp_path / "trainers.json").write_text(json.dumps(report))
    page = _render("zoo", read_committed(tmp_path))
    assert "| Detectron2 | 2 | 2 | 0 | 0 | 0 | 1 |" in page
    assert "| MMDetection | 2 | 0 | 1 | 1 | 0 | 1 |" in page
    assert "| `a/x_1x.yaml` | agrees | 20 | 302 | 2 | 0.0040 | 1.0e-06 |" in page
    assert "| `a/x_3x.yaml` | agrees: the network of `a/x_1x.yaml` |" in page
    assert "| `dcn/y.py` | refused: no deformable layers | - |" in page
    assert "| `gn/z.py` | differs: 2 missing; in float64: 3 missing, 0.0040 px, 1.0e-06 | 20 |" in page
    assert zoo_outcome(ZooRow(trainer="mmdetection", configuration="b", outcome="same network", same_as="c"), []) == (
        "not tried"
    )


def test_calibrated_weights_leave_a_few_objects_of_distinct_scores() -> None:
    model = Tiny()
    before = model.detect(image(9))
    calibrate(model, "mmdetection", [image(seed) for seed in range(4)])
    found = model.detect(image(9))
    assert len(before) > 200  # of 280 cells, which score about the same
    assert 0 < len(found) < len(before) / 2
    assert len(np.unique(found.scores)) == len(found) and found.scores.std() > 0.02
    assert set(found.labels) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("raised", "outcome", "reason"),
    [
        (CheckpointError("no deformable layers"), "refused", "no deformable layers"),
        (ValueError("x"), "differs", "ValueError: x"),
    ],
)
def test_what_export_says_is_kept_and_a_fault_is_no_agreement(
    raised: Exception, outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(trainers, "missing", lambda _: "")
    monkeypatch.setattr(trainers, "build", lambda *_: Tiny())
    monkeypatch.setattr(trainers, "save", lambda *_: (Path("a"), Path("b")))
    monkeypatch.setattr(trainers, "_read_checkpoint", fail)
    row = trainers._tried(Configuration(trainer="mmdetection", name="y.py", config=object()), [image(0)], None)
    assert (row.outcome, row.reason) == (outcome, reason)
    broken = Configuration(trainer="mmdetection", name="z.py", config=None, fault="MMDetection itself does not read it")
    assert trainers._tried(broken, [image(0)], None).outcome == "not tried"


class Pixels(nn.Module):
    """What MMDetection's models begin with."""

    def __init__(self, transform: nn.Module, *, rgb: bool) -> None:
        super().__init__()
        self.transform = [transform]  # kept out of the modules, which become float64
        self._channel_conversion = rgb

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        images, _ = self.transform[0]([data["inputs"]])
        return data | {"inputs": images.tensors if self._channel_conversion else images.tensors.flip(1)}


class Restated(TrainerModel):
    """Another trainer's model that computes as torchvision's does."""

    def __init__(self, detector: nn.Module, *, rgb: bool) -> None:
        self.title, self.rgb = "Restated 1.0", rgb
        self.module = nn.ModuleDict({"data_preprocessor": Pixels(detector.transform, rgb=rgb), "detector": detector})
        self.elements: set[torch.dtype] = set()

    def boxes(self, bgr: Any) -> tuple[Tensor, Tensor, Tensor]:
        rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1) / 255
        detector: Any = self.module["detector"]
        pixels = self.module["data_preprocessor"]({"inputs": rgb})["inputs"]
        sizes = [read_model_spec(detector).transform.resized_size(*bgr.shape[:2])]
        found = run_network(detector, pixels if self.rgb else pixels.flip(1), sizes)
        (result,) = detector.transform.postprocess(found, sizes, [bgr.shape[:2]])
        self.elements.add(found[0]["boxes"].dtype)
        return result["boxes"], result["scores"], result["labels"] - 1


@pytest.mark.parametrize(("share", "rgb", "agrees"), [(1.0, True, True), (1.0, False, True), (1.1, True, False)])
def test_in_float64_the_same_function_agrees_and_another_does_not(
    share: float, rgb: bool, agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mmcv", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mmcv._ext", SimpleNamespace(nms=None))
    model, ours = Restated(build(), rgb=rgb), build()
    ours.roi_heads.box_predictor.bbox_pred.weight.data *= share
    loaded: Any = SimpleNamespace(model=ours, spec=read_model_spec(ours))
    found = trainers._agreement(list(trainers._compared_in_float64(model, loaded, [image(seed) for seed in range(3)])))
    assert found.agrees is agrees and found.pairs > 5
    assert model.elements == {torch.float64}


def test_without_the_trainer_our_restatement_is_the_reference_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_models, "is_installed", lambda _: False)
    arguments = argparse.Namespace(args=[], checkpoint=Path("a.pth"), config=None)
    loaded: Any = SimpleNamespace(spec=SimpleNamespace(transform=SimpleNamespace(resize="detectron2")))
    manifest: Any = SimpleNamespace(canvases=None)
    own, title = own_reference(arguments, loaded, manifest)
    assert own is None
    assert title == "eager: our restatement of Detectron2's model (detectron2 is not installed)"
    arguments.args = ["min_size=640"]
    assert own_reference(arguments, loaded, manifest)[1].endswith("(it knows no --arg)")
    loaded.spec.transform.resize = "torchvision"
    assert own_reference(arguments, loaded, manifest) == (None, "eager torchvision")


def test_a_configuration_cannot_name_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trainer_models, "is_installed", lambda _: True)
    checkpoint, config = tmp_path / "a.pth", tmp_path / "c.py"
    torch.save({"state_dict": {"roi_head.bbox_head.fc_cls.weight": torch.ones(1)}}, checkpoint)
    config.write_text("model = dict(type='FasterRCNN', neck=[dict(type='os.system', command='true')])")
    with pytest.raises(CannotRunError, match=r"names code to import: os\.system"):
        own_model("mmdetection", checkpoint, config)
    with pytest.raises(CannotRunError, match="--config"):
        own_model("mmdetection", checkpoint, None)


def test_weights_of_another_model_are_named() -> None:
    model = Tiny()
    state = model.module.state_dict()
    model.load({name: tensor for name, tensor in state.items() if "num_batches" not in name})
    with pytest.raises(CannotRunError, match="mask_head"):
        model.load(state | {"roi_head.mask_head.weight": torch.ones(1)})
    with pytest.raises(CannotRunError, match="fc_cls"):
        model.load(state | {"roi_head.bbox_head.fc_cls.bias": torch.ones(2)})
