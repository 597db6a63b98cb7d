"""The deployable module in eager PyTorch, compared with torchvision."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision.ops.boxes as torchvision_boxes
from maintenance.noise import network_detections
from support.exports import detections
from support.families import FAMILIES
from support.images import LANDSCAPE, SHAPES, network_input
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.exporter.model.fold import fold_batchnorm
from frcnn.plugins.region_proposals.reference import ABSENT_ROI
from frcnn.runtime import Detections


@pytest.fixture
def per_class_nms(monkeypatch):
    """Make torchvision apply NMS per class and level for any number of boxes.

    For few boxes it shifts the boxes of each class apart instead, which rounds borderline overlaps differently.
    """
    monkeypatch.setattr(
        torchvision_boxes, "_batched_nms_coordinate_trick", torchvision_boxes._batched_nms_vanilla, raising=True
    )


def is_tied_for_the_last_place(found: Detections, maximum: int) -> np.ndarray:
    """Return which detections of a full list compete with others of the same score for the last place."""
    return (found.scores == found.scores.min()) & (len(found) == maximum)


def in_canonical_order(found: Detections, maximum: int) -> np.ndarray:
    """Return rows of (score, label, box), with equal scores ordered by label and box."""
    rows = np.concatenate([found.scores[:, None], found.labels[:, None], found.boxes], axis=1).astype(np.float64)
    rows = rows[~is_tied_for_the_last_place(found, maximum)]
    return rows[np.lexsort((*rows.T[::-1][:-1], -rows[:, 0]))]


def folded(model: torch.nn.Module, spec) -> torch.nn.Module:
    copied = copy.deepcopy(model).eval()
    fold_batchnorm(copied, spec)
    return copied


@pytest.mark.usefixtures("per_class_nms")
@pytest.mark.parametrize("family", FAMILIES)
def test_detections_equal_torchvision_exactly(family, exports):
    """With the same folded weights both round alike: labels, counts, scores, boxes."""
    model, spec = exports.model(family), exports.spec(family)
    deployable, eager = DeployableFasterRCNN(model, spec), folded(model, spec)
    maximum = spec.roi_heads.detections_per_img
    for shape in SHAPES:
        images, sizes = network_input(model, spec, shape)
        assert len(set(sizes)) > 1
        with torch.no_grad():
            found = detections(deployable(images, torch.tensor(sizes, dtype=torch.int32)), sizes)
        for expected, got in zip(network_detections(eager, spec, images, sizes), found, strict=True):
            assert len(expected) > 10
            assert np.array_equal(got.scores, expected.scores)
            assert np.array_equal(in_canonical_order(got, maximum), in_canonical_order(expected, maximum))


@pytest.mark.usefixtures("per_class_nms")
@pytest.mark.parametrize("family", ["resnet50_fpn", "mobilenet_v3_large_fpn", "vgg16"])
def test_proposals_equal_torchvision_exactly_and_are_padded(family, exports):
    model, spec = exports.model(family), exports.spec(family)
    images, sizes = network_input(model, spec, LANDSCAPE)
    deployable = DeployableFasterRCNN(model, spec)
    with torch.no_grad():
        maps = deployable.features.backbone(images)
        features = OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps
        objectness, deltas, _ = deployable.features(images)
        found = deployable.stages.proposals(torch.tensor(sizes, dtype=torch.int32), images, objectness, deltas)
        expected, _ = model.rpn(ImageList(images, sizes), features)
    assert found.shape == (4, min(100, found.shape[1]), 4)
    for padded, boxes in zip(found, expected, strict=True):
        rows, wanted = padded[: len(boxes)].numpy(), boxes.numpy()  # equal scores leave their order open
        assert np.array_equal(rows[np.lexsort(rows.T)], wanted[np.lexsort(wanted.T)])
        assert (padded[len(boxes) :] == torch.tensor(ABSENT_ROI)).all()


def test_a_padding_proposal_has_no_detections(exports):
    model, spec = exports.model("vgg16"), exports.spec("vgg16")
    images, sizes = network_input(model, spec, LANDSCAPE)
    deployable = DeployableFasterRCNN(model, spec)
    stages, size_rows = deployable.stages, torch.tensor(sizes, dtype=torch.int32)
    absent = torch.tensor(ABSENT_ROI)
    with torch.no_grad():
        objectness, deltas, features = deployable.features(images)
        proposals = stages.proposals(size_rows, images, objectness, deltas)
        few = proposals.clone()
        few[0] = absent
        few[1, 5:] = absent
        few[2, 5:] = absent
        few[2] = few[2].roll(7, dims=0)
        few[1, :5] = few[2, 7:12] = proposals[1, :5]
        features, size_rows = [feature[[0, 1, 1, 3]] for feature in features], size_rows[[0, 1, 1, 3]]
        predictions = deployable.boxes(stages.pooling(few, features))
        count, boxes, scores, labels = stages.detections(few, size_rows, *predictions)
    assert count[0] == 0 and not boxes[0].any() and not scores[0].any() and not labels[0].any()
    assert 0 < count[1] == count[2]
    assert torch.equal(boxes[1], boxes[2]) and torch.equal(scores[1], scores[2])  # absent rows between change nothing


@pytest.mark.parametrize(("family", "score_thresh"), [("vgg16", 0.3), ("resnet18_fpn_max", 0.2)])
def test_scores_decrease_and_rows_after_the_count_are_zero(family, score_thresh, exports):
    model, spec = copy.deepcopy(exports.model(family)), exports.spec(family)
    images, sizes = network_input(model, spec, LANDSCAPE)
    model.roi_heads.score_thresh = score_thresh
    deployable = DeployableFasterRCNN(model, spec)
    with torch.no_grad():
        outputs = deployable(images, torch.tensor(sizes, dtype=torch.int32))
    count, boxes, scores, labels = outputs
    assert [value.dtype for value in outputs] == [torch.int32, torch.float32, torch.float32, torch.int32]
    maximum = spec.roi_heads.detections_per_img
    assert boxes.shape == (4, maximum, 4) and scores.shape == labels.shape == (4, maximum)
    assert (count < maximum).any()
    for i, n in enumerate(count.tolist()):
        assert n > 0 and (scores[i, :n] > score_thresh).all()
        assert ((labels[i, :n] >= 1) & (labels[i, :n] < spec.num_classes)).all()
        assert (scores[i, :n].diff() <= 0).all()
        height, width = sizes[i]
        assert (boxes[i, :n] >= 0).all()
        assert (boxes[i, :n, 2] <= width).all() and (boxes[i, :n, 3] <= height).all()
        assert not boxes[i, n:].any() and not scores[i, n:].any() and not labels[i, n:].any()


def test_detections_do_not_depend_on_the_other_images_of_the_batch(exports):
    model, spec = exports.model("resnet18_fpn_max"), exports.spec("resnet18_fpn_max")
    images, sizes = network_input(model, spec, LANDSCAPE)
    deployable = DeployableFasterRCNN(model, spec)
    size_rows = torch.tensor(sizes, dtype=torch.int32)
    with torch.no_grad():
        together = deployable(images, size_rows)
        backwards = deployable(images.flip(0), size_rows.flip(0))
    assert all(torch.equal(a, b.flip(0)) for a, b in zip(together, backwards, strict=True))


def test_only_heavy_layers_are_in_half_precision(exports):
    model, spec = exports.model("resnet50_fpn"), exports.spec("resnet50_fpn")
    deployable = DeployableFasterRCNN(model, spec, "fp16")
    assert {p.dtype for p in deployable.parameters()} == {torch.float16}
    images, sizes = network_input(model, spec, LANDSCAPE)
    with torch.no_grad():
        outputs = deployable(images[:1].half(), torch.tensor(sizes[:1], dtype=torch.int32))
    assert [value.dtype for value in outputs] == [torch.int32, torch.float32, torch.float32, torch.int32]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
