"""Checkpoints of other trainers as files: told by their names, with what was read, and boxes without other heads."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.detectron2_names import named
from support.tiny_models import build
from support.trainer_states import converted, settings, state
from torchvision.models.detection import FasterRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.checkpoint.load import read_checkpoint
from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint
from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.spec import CheckpointOptions

NAMES = ("cat", "dog", "owl")


def zoo_pickle(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return zoo_pickle(tmp_path / "model_final.pkl", named(state()))


def test_a_file_of_detectron2s_zoo_is_told_and_read(checkpoint):
    loaded = read_checkpoint(checkpoint, labels=NAMES)
    assert loaded.spec.architecture == "Detectron2 ResNet-FPN"
    assert loaded.spec.labels == ("__background__", *NAMES)
    assert loaded.facts[1:3] == ("trainer: Detectron2, by the names of its weights", "architecture: ResNet-FPN")
    assert all("as Detectron2's own models have it (--" in line for line in loaded.assumptions)
    assert loaded.options is None
    expected = build_restatement(converted(settings())).state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_mean_and_std_that_are_kept_with_the_weights_are_not_assumed(tmp_path):
    kept = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    loaded = read_checkpoint(zoo_pickle(tmp_path / "old.pkl", named(state()) | kept), labels=NAMES)
    (line,) = (line for line in loaded.assumptions if "normalised" in line)
    assert line.endswith("(--arg channel_order)")


def test_arguments_change_what_is_assumed(checkpoint):
    args = {"min_size": 96, "box_score_thresh": 0.3, "channel_order": "rgb", "stride_in_1x1": False}
    loaded = read_checkpoint(checkpoint, args=args, labels=NAMES)
    assert (loaded.spec.transform.min_size, loaded.spec.roi_heads.score_thresh) == (96, 0.3)
    assert any("short side of 96 px" in line for line in loaded.assumptions)
    assert any("RGB from 0 to 255" in line for line in loaded.assumptions)
    assert "given: min_size=96" in loaded.facts
    body = loaded.model.backbone.body
    assert (body.layer2[0].conv1.stride, body.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert torch.equal(body.conv1.weight, state()["backbone.body.conv1.weight"]), "not turned round"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"args": {"width": 3}}, "takes no argument 'width'"),
        ({"args": {"min_size": 0}}, "min_size: expected a whole number"),
        ({"args": {"channel_order": "yuv"}}, "expected rgb or bgr, got 'yuv'"),
        ({"args": {"stride_in_1x1": 1}}, "expected True or False, got 1"),
        ({"args": {"pixel_std": (1, 0, 1)}}, r"expected three numbers, got \(1, 0, 1\)"),
        ({"trainer": "mmdetection"}, "--from mmdetection, but the names .* are Detectron2's"),
        ({"arch": "fasterrcnn_resnet50_fpn"}, "--arch goes with torchvision's models, .* is Detectron2's"),
        ({"boxes_only": True}, "--boxes-only: .* has no head but that of its boxes"),
        ({"labels": ("a",)}, "labels"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(options, expected, checkpoint):
    with pytest.raises(UsageError, match=expected):
        read_checkpoint(checkpoint, **options)


def test_a_configuration_is_for_other_trainers_only(tmp_path):
    path = tmp_path / "my.pth"
    torch.save({"rpn.head.cls_logits.weight": torch.zeros(1), "roi_heads.x": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match=r"--config goes with checkpoints of Detectron2 and MMDetection"):
        read_checkpoint(path, config=tmp_path / "config.yaml")


def test_a_configuration_of_another_model_is_refused(checkpoint, tmp_path):
    (tmp_path / "config.yaml").write_text("MODEL:\n  RESNETS:\n    DEPTH: 101\n")
    with pytest.raises(CheckpointError, match=r"the configuration says MODEL\.BACKBONE\.NAME 'build_resnet_backbone'"):
        read_checkpoint(checkpoint, config=tmp_path / "config.yaml")


def test_weights_of_any_shape_under_these_names_are_refused_in_a_line(tmp_path):
    broken = {name: torch.zeros(2) for name in named(state())}
    with pytest.raises(CheckpointError, match="fit no Faster R-CNN of Detectron2"):
        read_checkpoint(zoo_pickle(tmp_path / "model_final.pkl", broken))


@pytest.mark.parametrize("head", ["roi_heads.mask_head.mask_fcn1.weight", "roi_heads.keypoint_head.x.weight"])
def test_other_heads_are_left_out_on_demand(head, tmp_path):
    path = zoo_pickle(tmp_path / "model_final.pkl", named(state()) | {head: torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"holds a (Mask|Keypoint) R-CNN") as error:
        read_checkpoint(path)
    assert "--boxes-only" in error.value.hint
    loaded = read_checkpoint(path, boxes_only=True)
    assert any(line.startswith("left out: 1 weights of the ") for line in loaded.facts)
    assert loaded.options == CheckpointOptions(boxes_only=True)


def with_another_head(kind: str) -> FasterRCNN:
    torch.manual_seed(0)
    model = build(box_score_thresh=0.0, box_detections_per_img=9).eval()
    heads = model.roi_heads
    if kind == "mask":
        heads.mask_head, heads.mask_predictor = MaskRCNNHeads(8, (8,), 1), MaskRCNNPredictor(8, 8, 4)
    else:
        heads.keypoint_head, heads.keypoint_predictor = KeypointRCNNHeads(8, (8,)), KeypointRCNNPredictor(8, 5)
    setattr(heads, f"{kind}_roi_pool", MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2))
    return model.eval()


def same_boxes(loaded: LoadedCheckpoint, model: Any, side: int) -> None:
    image = torch.rand(3, side, side + 30, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = loaded.model([image])[0], model([image])[0]
    assert len(ours["boxes"]) > 0
    for part in ("boxes", "scores", "labels"):
        assert torch.equal(ours[part], theirs[part])
    assert ours.keys() == {"boxes", "scores", "labels"}


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_a_pickled_model_loses_its_other_heads(kind, tmp_path):
    torch.save(with_another_head(kind), tmp_path / "my.pth")
    loaded = read_checkpoint(tmp_path / "my.pth", trust_pickle=True, boxes_only=True)
    count = {"mask": 6, "keypoint": 4}[kind]
    assert f"left out: {count} weights of the {kind} head" in loaded.facts
    same_boxes(loaded, with_another_head(kind), 64)


@pytest.mark.slow
def test_boxes_of_torchvisions_mask_rcnn_are_its_own(tmp_path):
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0).eval()
    torch.save(model.state_dict(), tmp_path / "my.pth")
    args = {"norm": "batch", "norm_eps": 1e-5, "box_score_thresh": 0.0, "min_size": 320}
    loaded = read_checkpoint(tmp_path / "my.pth", boxes_only=True, args=args)
    model.transform.min_size = (320,)
    assert loaded.spec.architecture == "fasterrcnn_resnet50_fpn"
    same_boxes(loaded, model, 320)


def test_class_names_and_configuration_of_mmdetection_are_taken_from_the_checkpoint(tmp_path, monkeypatch):
    seen: dict[str, Any] = {}

    def convert(weights: Any, config: Any, *, labels: Any) -> Any:
        seen.update(config=config, labels=labels, names=sorted(weights))
        return converted()

    monkeypatch.setattr("frcnn.exporter.checkpoint.trainers.mmdetection.convert", convert)
    meta = {"cfg": "model = dict(type='FasterRCNN')", "dataset_meta": {"classes": NAMES}, "best": np.float64(0.5)}
    weights = {"rpn_head.rpn_conv.weight": torch.zeros(1), "roi_head.bbox_head.fc_cls.weight": torch.zeros(1)}
    torch.save({"meta": meta, "state_dict": weights}, tmp_path / "epoch_12.pth")
    loaded = read_checkpoint(tmp_path / "epoch_12.pth")
    assert seen == {"config": {"model": {"type": "FasterRCNN"}}, "labels": NAMES, "names": sorted(weights)}
    assert loaded.spec.labels == ("__background__", *NAMES)
    assert any(line.endswith("(in the checkpoint)") for line in loaded.facts)
    meta["cfg"] = "import os"
    torch.save({"meta": meta, "state_dict": weights}, tmp_path / "epoch_12.pth")
    with pytest.raises(
        CheckpointError, match=r"the configuration in .*epoch_12\.pth, line 1: Import is no plain value"
    ):
        read_checkpoint(tmp_path / "epoch_12.pth")
