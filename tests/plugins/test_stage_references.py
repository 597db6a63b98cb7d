"""RegionProposals and BoxDetections: references against torchvision's own methods, bit by bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.stage_inputs import image_sizes, present_rois
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import boxes as torchvision_boxes

from frcnn.exporter.model.stages import float32_floor
from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.region_proposals.reference import ABSENT_ROI, region_proposals

SEEDS = pytest.mark.parametrize("seed", range(4))
CANVAS = (192, 256)


@pytest.fixture
def nms_of_each_class(monkeypatch):
    """torchvision moves the classes of few boxes apart before nms, which rounds them; of many it takes each by itself.

    The first keeps the order of equal scores, the second leaves it open.
    """
    monkeypatch.setattr(torchvision_boxes, "_batched_nms_coordinate_trick", torchvision_boxes._batched_nms_vanilla)


class GivenPredictions(nn.Module):
    """An RPN head that predicts what it is given: logits and deltas of each level."""

    def __init__(self, *predictions: list[Tensor]) -> None:
        super().__init__()
        self.predictions = predictions

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], ...]:
        return self.predictions


def rpn(head: nn.Module, levels: int, *, ratio: float = 1.3, **settings: Any) -> RegionProposalNetwork:
    """Return an RPN of 2 anchors a cell on the finest level and 3 on the others, with 25, 40 or more to select."""
    sizes = tuple(tuple(20.0 * 2**level + 8 * i for i in range(2 if level == 0 else 3)) for level in range(levels))
    top_n = {"pre_nms_top_n": {"training": 1, "testing": 40}, "post_nms_top_n": {"training": 1, "testing": 25}}
    return RegionProposalNetwork(
        AnchorGenerator(sizes, ((ratio,),) * levels),
        head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=1,
        positive_fraction=0.5,
        **top_n | {"nms_thresh": 0.7} | settings,
    ).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nms_thresh": 0.3, "score_thresh": 0.4},
        {"pre_nms_top_n": {"training": 1, "testing": 5000}, "post_nms_top_n": {"training": 1, "testing": 4000}},
    ],
    ids=["default", "thresholds", "all"],
)
@pytest.mark.parametrize("levels", [1, 3, 5])
@SEEDS
@pytest.mark.usefixtures("nms_of_each_class")
def test_proposals(seed, levels, settings):
    rng = np.random.default_rng(seed)
    cells = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in (8, 16, 32, 64, 128)[:levels]]
    shapes = [(2, 2 if level == 0 else 3, *size) for level, size in enumerate(cells)]
    sizes_of_levels = [math.prod(shape[1:]) for shape in shapes]
    # no two of an image are equal: torchvision leaves their order open
    logits = torch.tensor(np.stack([rng.permutation(np.linspace(-6, 6, sum(sizes_of_levels))) for _ in range(2)]))
    objectness = [part.reshape(s).float() for part, s in zip(logits.split(sizes_of_levels, 1), shapes, strict=True)]
    deltas = [torch.from_numpy(rng.normal(0, 0.4, (n, 4 * a, h, w))).float() for n, a, h, w in shapes]
    for level_deltas in deltas:
        level_deltas[0, 2] += 6  # over the limit
    assert_proposals_are_torchvisions(objectness, deltas, image_sizes(rng, 2, CANVAS), **settings)


def test_proposals_of_equal_scores():
    """All sigmoids are 1 in float32; coordinates are whole numbers, which are moved without rounding."""
    rng = np.random.default_rng(5)
    shapes = [(2, 2, 5, 7), (2, 3, 3, 4)]
    objectness = [torch.from_numpy(rng.permuted(30 + np.arange(math.prod(s)) / 2).reshape(s)).float() for s in shapes]
    deltas = [torch.zeros(n, 4 * a, h, w) for n, a, h, w in shapes]
    sizes = torch.tensor([CANVAS, (100, 120)], dtype=torch.int32)
    assert all((logits.sigmoid() == 1).all() for logits in objectness)
    assert_proposals_are_torchvisions(objectness, deltas, sizes, ratio=1.0)


def assert_proposals_are_torchvisions(
    objectness: list[Tensor], deltas: list[Tensor], sizes: Tensor, **settings: Any
) -> None:
    model = rpn(GivenPredictions(objectness, deltas), len(objectness), **settings)
    images = torch.zeros(2, 3, *CANVAS)
    features = {str(level): logits[:, :1] for level, logits in enumerate(objectness)}
    with torch.no_grad():
        expected, _ = model(ImageList(images, sizes.tolist()), features)

    rows = [(level, *anchor) for level, a in enumerate(model.anchor_generator.cell_anchors) for anchor in a.tolist()]
    rois = region_proposals(
        sizes,
        images,
        objectness,
        deltas,
        anchors=[value for row in rows for value in row],
        strides=[0.0],
        box_weights=model.box_coder.weights,
        max_log_scale=model.box_coder.bbox_xform_clip,
        pre_nms_top_n=model.pre_nms_top_n(),
        post_nms_top_n=model.post_nms_top_n(),
        iou_threshold=float32_floor(model.nms_thresh),
        score_threshold=model.score_thresh,
        min_size=model.min_size,
    )
    for image_rois, image_expected in zip(rois, expected, strict=True):
        count = len(image_expected)
        assert count > 10
        assert torch.equal(image_rois[:count], image_expected)
        assert (image_rois[count:] == torch.tensor(ABSENT_ROI)).all()


@pytest.mark.parametrize("settings", [{}, {"score_thresh": 0.0, "nms_thresh": 0.3, "detections_per_img": 1000}])
@pytest.mark.parametrize("classes", [2, 3, 21])
@SEEDS
@pytest.mark.usefixtures("nms_of_each_class")
def test_detections(seed, classes, settings):
    rng = np.random.default_rng(seed)
    counts, sizes = (50, 30), image_sizes(rng, 2, CANVAS)
    rois = present_rois(rng, 2, max(counts), CANVAS)
    rois[1, counts[1] :] = torch.tensor(ABSENT_ROI)
    logits = torch.from_numpy(rng.normal(0, 2, (2, max(counts), classes))).float()
    deltas = torch.from_numpy(rng.normal(0, 2, (2, max(counts), 4 * classes))).float()
    assert_detections_are_torchvisions(rois, counts, sizes, logits, deltas, **settings)


def test_detections_of_equal_scores():
    """Coordinates are whole numbers, which are moved without rounding."""
    rng = np.random.default_rng(5)
    corners = rng.integers(0, 100, (2, 40, 2))
    rois = torch.from_numpy(np.concatenate([corners, corners + 2 * rng.integers(4, 20, (2, 40, 2))], axis=2)).float()
    logits = torch.from_numpy(rng.integers(0, 2, (2, 40, 5))).float()
    sizes = torch.tensor([CANVAS, (100, 120)], dtype=torch.int32)
    assert_detections_are_torchvisions(rois, (40, 40), sizes, logits, torch.zeros(2, 40, 20), detections_per_img=60)


def assert_detections_are_torchvisions(
    rois: Tensor, counts: tuple[int, ...], sizes: Tensor, logits: Tensor, deltas: Tensor, **settings: Any
) -> None:
    heads = RoIHeads(
        *(None, None, None, 0.5, 0.5, 1, 0.5, None),
        **{"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 20} | settings,
    )
    present = [(image, slice(count)) for image, count in enumerate(counts)]
    expected = heads.postprocess_detections(
        torch.cat([logits[place] for place in present]),
        torch.cat([deltas[place] for place in present]),
        [rois[place] for place in present],
        sizes.tolist(),
    )
    found = box_detections(
        rois,
        sizes,
        logits.flatten(0, 1),
        deltas.flatten(0, 1),
        box_weights=heads.box_coder.weights,
        max_log_scale=heads.box_coder.bbox_xform_clip,
        score_threshold=heads.score_thresh,
        iou_threshold=float32_floor(heads.nms_thresh),
        min_size=1e-2,
        max_detections=heads.detections_per_img,
    )
    for image, (boxes, scores, labels) in enumerate(zip(*expected, strict=True)):
        count = len(boxes)
        assert 0 < count == found.num_detections[image]
        assert torch.equal(found.boxes[image, :count], boxes)
        assert torch.equal(found.scores[image, :count], scores)
        assert torch.equal(found.labels[image, :count], labels)
        assert not any(tensor[image, count:].any() for tensor in found[1:])
