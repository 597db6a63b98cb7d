"""GroupedNMS: reference against torchvision, function body and kernels against the reference, all exactly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from frcnn.exporter.model.boxes import float32_floor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.operators import operator_session, run_operator
from support.proposals import corner_cases, proposals
from support.simt import require_compiler, run_on_host
from torch import Tensor
from torchvision.ops import nms

from frcnn.plugins import grouped_nms
from frcnn.plugins.grouped_nms.kernel import MAX_BOXES, kernels
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
SCHEDULES = st.sampled_from(["forward", "reverse", "shuffled"])


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


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


def assert_is_the_reference(boxes: Tensor, scores: Tensor, iou_threshold: float, schedule: str = "forward") -> Tensor:
    found = in_kernels(boxes, scores, iou_threshold, schedule)
    assert torch.equal(found, in_reference(boxes, scores, iou_threshold))
    return found


@pytest.mark.slow
@settings(max_examples=60)
@given(proposals(), st.sampled_from(THRESHOLDS), SCHEDULES)
def test_proposals_in_the_kernels(case, iou_threshold, schedule):
    assert_is_the_reference(*case, iou_threshold, schedule)


@pytest.mark.slow
@settings(max_examples=300)
@given(corner_cases(), st.sampled_from([0.0, *THRESHOLDS, 1.0]), SCHEDULES)
def test_corner_cases_in_the_kernels(case, iou_threshold, schedule):
    assert_is_the_reference(*case, iou_threshold, schedule)


COORDINATES = st.sampled_from(
    [0.0, -0.0, 1.0, 2.0, 3.0, 1e-30, 1e-42, -5.0, 1e19, 3e38, float("inf"), -float("inf"), float("nan")]
)


@pytest.mark.slow
@settings(max_examples=300)
@given(hnp.arrays(np.float32, (2, 4, 4), elements=COORDINATES), st.sampled_from([0.0, *THRESHOLDS]))
def test_present_boxes_of_any_coordinates(boxes, iou_threshold):
    """Inverted, infinite, denormal and NaN coordinates: the same as torchvision."""
    scores = torch.tensor([[0.5, 0.25, 0.75, 0.5]] * 2)
    assert_is_the_reference(torch.from_numpy(boxes), scores, iou_threshold)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from(THRESHOLDS))
def test_ious_within_a_last_bit_of_the_threshold(seed, iou_threshold):
    """Pairs whose IoU is within a few roundings of the threshold, where a product instead of a division errs."""
    rng = np.random.default_rng(seed)
    count = 64
    sides = rng.uniform(1, 500, (count, 2))
    corners = np.stack([600.0 * np.arange(count), rng.uniform(0, 9, count)], axis=1)
    first = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    # moved along x by d, a box overlaps its copy by (w - d) / (w + d)
    shift = sides[:, 0] * (1 - iou_threshold) / (1 + iou_threshold)
    second = (first + np.stack([shift, shift * 0, shift, shift * 0], axis=1)).astype(np.float32)
    second[:, 2] += rng.integers(-3, 4, count) * np.spacing(second[:, 2])
    boxes = torch.from_numpy(np.concatenate([first, second])[None])
    scores = torch.from_numpy(rng.permutation(np.linspace(0.1, 0.9, 2 * count)).astype(np.float32)[None])
    assert_is_the_reference(boxes, scores, iou_threshold)


@pytest.mark.slow
@pytest.mark.parametrize("boxes_per_group", [1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1000, 1023, 1025, 2049])
def test_every_size_around_a_tile_a_warp_and_a_block(boxes_per_group):
    generator = torch.Generator().manual_seed(boxes_per_group)
    corners = torch.rand(2, boxes_per_group, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, boxes_per_group, 2, generator=generator) * 40], dim=2)
    scores = torch.rand(2, boxes_per_group, generator=generator)
    kept = assert_is_the_reference(boxes, scores, 0.5)
    assert (kept >= 0).any(dim=1).all()


@pytest.mark.slow
def test_the_most_boxes_of_a_group():
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(1, MAX_BOXES, 2, generator=generator) * 300
    boxes = torch.cat([corners, corners + 20], dim=2)
    scores = (torch.rand(1, MAX_BOXES, generator=generator) * 100).round() / 100  # many ties
    kept = assert_is_the_reference(boxes, scores, 0.5)
    assert 0 < int((kept >= 0).sum()) < MAX_BOXES


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["forward", "reverse", "shuffled"])
def test_a_chain_in_which_every_decision_depends_on_the_one_before(schedule):
    """Box i overlaps only i - 1 and i + 1, scores fall along the chain: every second box is kept."""
    count = 1100
    left = 4.0 * torch.arange(count)
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 1], dim=1)[None]
    scores = torch.linspace(0.9, 0.1, count)[None]
    kept = assert_is_the_reference(boxes, scores, 0.3, schedule)
    assert ((kept >= 0)[0] == (torch.arange(count) % 2 == 0)).all()


@pytest.mark.slow
def test_a_thousand_groups_most_of_them_empty():
    generator = torch.Generator().manual_seed(9)
    groups, maximum = 1000, 40
    corners = torch.rand(groups, maximum, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 15], dim=2)
    scores = torch.rand(groups, maximum, generator=generator)
    scores[torch.rand(groups, maximum, generator=generator) < 0.9] = -1
    scores[::3] = -1
    assert_is_the_reference(boxes, scores, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0)])
def test_empty_groups_give_an_empty_output(shape):
    assert in_kernels(torch.zeros(*shape, 4), torch.zeros(shape), 0.5).shape == shape
