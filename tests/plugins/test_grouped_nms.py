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


@pytest.mark.slow
@settings(max_examples=40)
@given(proposals(), st.sampled_from(THRESHOLDS))
def test_reference_is_torchvisions_nms_in_each_group(case, iou_threshold):
    assert torch.equal(in_reference(*case, iou_threshold), in_torchvision(*case, iou_threshold))


@pytest.mark.slow
@settings(max_examples=200)
@given(corner_cases(), st.sampled_from(THRESHOLDS))
def test_reference_is_torchvisions_nms_on_corner_cases(case, iou_threshold):
    assert torch.equal(in_reference(*case, iou_threshold), in_torchvision(*case, iou_threshold))


@pytest.mark.slow
@settings(max_examples=40)
@given(proposals(), st.sampled_from(THRESHOLDS))
def test_function_is_the_reference(case, iou_threshold):
    assert torch.equal(in_onnxruntime(*case, iou_threshold), in_reference(*case, iou_threshold))


@pytest.mark.slow
@settings(max_examples=200)
@given(corner_cases(), st.sampled_from(THRESHOLDS))
def test_function_is_the_reference_on_corner_cases(case, iou_threshold):
    assert torch.equal(in_onnxruntime(*case, iou_threshold), in_reference(*case, iou_threshold))


@pytest.fixture(params=[in_reference, in_onnxruntime, in_kernels], ids=["reference", "function", "kernels"])
def suppress(request):
    return request.param


def test_one_box_is_kept(suppress):
    kept = suppress(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([[0.25]]), 0.5)
    assert kept.tolist() == [[0.25]]


def test_nothing_present_gives_nothing(suppress):
    boxes = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    kept = suppress(boxes, torch.full((3, 5), -1.0), 0.5)
    assert kept.tolist() == [[-1.0] * 5] * 3


def test_of_equal_boxes_the_best_stays(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]] * 3])
    assert suppress(boxes, torch.tensor([[0.25, 0.75, 0.5]]), 0.5).tolist() == [[-1.0, 0.75, -1.0]]


def test_of_equal_boxes_of_equal_score_the_first_stays(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]] * 3])
    assert suppress(boxes, torch.tensor([[0.5, 0.5, 0.5]]), 0.5).tolist() == [[0.5, -1.0, -1.0]]


def test_a_suppressed_box_suppresses_none(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 1.0], [3.0, 0.0, 13.0, 1.0], [6.0, 0.0, 16.0, 1.0]]])
    assert suppress(boxes, torch.tensor([[0.75, 0.5, 0.25]]), 0.5).tolist() == [[0.75, -1.0, 0.25]]


def test_an_overlap_of_exactly_the_threshold_is_kept(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    assert suppress(boxes, torch.tensor([[0.75, 0.5]]), 0.5).tolist() == [[0.75, 0.5]]


def test_groups_do_not_see_each_other(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]], [[0.0, 0.0, 4.0, 4.0]]])
    assert suppress(boxes, torch.tensor([[0.5], [0.75]]), 0.5).tolist() == [[0.5], [0.75]]


def test_boxes_of_no_size_do_not_suppress_each_other(suppress):
    boxes = torch.tensor([[[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]])
    assert suppress(boxes, torch.tensor([[0.5, 0.75]]), 0.5).tolist() == [[0.5, 0.75]]


def test_a_score_of_nan_marks_an_absent_box_and_zero_a_present_one(suppress):
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [20.0, 0.0, 24.0, 4.0], [0.0, 0.0, 4.0, 4.0]]])
    assert suppress(boxes, torch.tensor([[float("nan"), 0.0, 0.25]]), 0.5).tolist() == [[-1.0, 0.0, 0.25]]


def test_absent_boxes_may_have_any_coordinates(suppress):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[nan, nan, nan, nan], [0.0, 0.0, 4.0, 4.0], [9.0, 9.0, -inf, inf]]])
    assert suppress(boxes, torch.tensor([[-1.0, 0.5, -1.0]]), 0.5).tolist() == [[-1.0, 0.5, -1.0]]


def test_more_than_one_overlap_and_no_limit_on_how_many_are_kept(suppress):
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
