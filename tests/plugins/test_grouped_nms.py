"""GroupedNMS: reference against torchvision, function body and kernels against the reference, all exactly."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import operator_session, run_operator
from support.proposals import corner_cases, proposals
from support.simt import run_on_host
from torch import Tensor
from torchvision.ops import nms

from frcnn.exporter.model.boxes import float32_floor
from frcnn.plugins import grouped_nms
from frcnn.plugins.grouped_nms.kernel import kernels
from frcnn.plugins.grouped_nms.reference import grouped_nms as reference

THRESHOLDS = (0.3, 0.5, 0.7)


@cache
def session(iou_threshold: float):
    return operator_session(
        grouped_nms.SPEC, grouped_nms.function(), attributes={"iou_threshold": float32_floor(iou_threshold)}
    )


def in_onnxruntime(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return run_operator(session(iou_threshold), boxes, scores)


def in_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return reference(boxes, scores, iou_threshold=float32_floor(iou_threshold))


def in_kernels(boxes: Tensor, scores: Tensor, iou_threshold: float, schedule: str = "forward") -> Tensor:
    launches = kernels(iou_threshold=float32_floor(iou_threshold))
    return run_on_host(launches, {"boxes": boxes, "scores": scores}, schedule=schedule)["kept_scores"]


def in_torchvision(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Apply torchvision's nms, with its float64 threshold, to the present boxes of each group."""
    kept_scores = torch.full_like(scores, -1.0)
    for g in range(len(boxes)):
        present = [m for m in range(boxes.shape[1]) if scores[g, m] >= 0]
        for i in nms(boxes[g][present], scores[g][present], iou_threshold).tolist():
            kept_scores[g, present[i]] = scores[g, present[i]]
    return kept_scores


PAIRS = pytest.mark.parametrize(
    ("found", "expected"),
    [(in_reference, in_torchvision), (in_onnxruntime, in_reference)],
    ids=["reference-torchvision", "function-reference"],
)


@pytest.mark.slow
@PAIRS
@settings(max_examples=40)
@given(proposals(), st.sampled_from(THRESHOLDS))
def test_proposals(found, expected, case, iou_threshold):
    assert torch.equal(found(*case, iou_threshold), expected(*case, iou_threshold))


@pytest.mark.slow
@PAIRS
@settings(max_examples=200)
@given(corner_cases(), st.sampled_from(THRESHOLDS))
def test_corner_cases(found, expected, case, iou_threshold):
    assert torch.equal(found(*case, iou_threshold), expected(*case, iou_threshold))


@pytest.fixture(params=[in_reference, in_onnxruntime, in_kernels], ids=["reference", "function", "kernels"])
def suppress(request):
    return request.param


BOX, FAR = [0.0, 0.0, 4.0, 4.0], [20.0, 0.0, 24.0, 4.0]
NAN, INF = float("nan"), float("inf")
GROUPS = {  # boxes, scores and kept scores of a group
    "one box is kept": ([[1.0, 2.0, 3.0, 4.0]], [0.25], [0.25]),
    "no box is present": ([BOX, FAR, BOX], [-1.0] * 3, [-1.0] * 3),
    "the best of equal boxes is kept": ([BOX] * 3, [0.25, 0.75, 0.5], [-1.0, 0.75, -1.0]),
    "the first of equal boxes and scores is kept": ([BOX] * 3, [0.5] * 3, [0.5, -1.0, -1.0]),
    "a suppressed box suppresses none": (
        [[0.0, 0.0, 10.0, 1.0], [3.0, 0.0, 13.0, 1.0], [6.0, 0.0, 16.0, 1.0]],
        [0.75, 0.5, 0.25],
        [0.75, -1.0, 0.25],
    ),
    "an IoU of exactly the threshold is kept": ([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]], [0.75, 0.5], [0.75, 0.5]),
    "boxes without area suppress none": ([[3.0] * 4] * 2, [0.5, 0.75], [0.5, 0.75]),
    "NaN is absent and 0 is present": ([BOX, FAR, BOX], [NAN, 0.0, 0.25], [-1.0, 0.0, 0.25]),
    "absent boxes have any coordinates": (
        [[NAN] * 4, BOX, [9.0, 9.0, -INF, INF]],
        [-1.0, 0.5, -1.0],
        [-1.0, 0.5, -1.0],
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_group(suppress, name):
    boxes, scores, kept = GROUPS[name]
    assert suppress(torch.tensor([boxes]), torch.tensor([scores]), 0.5).tolist() == [kept]


def test_groups_are_independent(suppress):
    assert suppress(torch.tensor([[BOX], [BOX]]), torch.tensor([[0.5], [0.75]]), 0.5).tolist() == [[0.5], [0.75]]


def test_the_number_of_kept_boxes_has_no_limit(suppress):
    count = 1500
    left = 10.0 * torch.arange(count)
    boxes = torch.stack([left, left * 0, left + 5, left * 0 + 5], dim=1)[None]
    scores = torch.linspace(0.1, 0.9, count)[None]
    assert torch.equal(suppress(boxes, scores, 0.5), scores)


@pytest.mark.slow
def test_the_threshold_is_the_nodes_own(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 1.0], [4.0, 0.0, 14.0, 1.0]]])  # IoU 6 / 14
    scores = torch.tensor([[0.75, 0.5]])
    kept = {threshold: int((suppress(boxes, scores, threshold) >= 0).sum()) for threshold in THRESHOLDS}
    assert kept == {0.3: 1, 0.5: 2, 0.7: 2}
