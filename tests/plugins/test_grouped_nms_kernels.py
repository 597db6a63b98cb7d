"""GroupedNMS on CUDA, run on the CPU from the same source: exactly the reference, however its threads are scheduled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.proposals import corner_cases, proposals
from support.simt import require_compiler, run_on_host
from torch import Tensor

from frcnn.exporter.model.boxes import float32_floor
from frcnn.plugins.grouped_nms.kernel import MAX_BOXES, kernels
from frcnn.plugins.grouped_nms.reference import grouped_nms as reference

pytestmark = pytest.mark.slow

THRESHOLDS = (0.3, 0.5, 0.7)
SCHEDULES = st.sampled_from(["forward", "reverse", "shuffled"])


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, schedule: str = "forward") -> Tensor:
    launches = kernels(iou_threshold=float32_floor(iou_threshold))
    return run_on_host(launches, {"boxes": boxes, "scores": scores}, schedule=schedule)["kept_scores"]


def assert_is_the_reference(boxes: Tensor, scores: Tensor, iou_threshold: float, schedule: str = "forward") -> Tensor:
    found = suppress(boxes, scores, iou_threshold, schedule)
    expected = reference(boxes, scores, iou_threshold=float32_floor(iou_threshold))
    assert torch.equal(found, expected)
    return found


@settings(max_examples=60)
@given(proposals(), st.sampled_from(THRESHOLDS), SCHEDULES)
def test_proposals(case, iou_threshold, schedule):
    assert_is_the_reference(*case, iou_threshold, schedule)


@settings(max_examples=300)
@given(corner_cases(), st.sampled_from([0.0, *THRESHOLDS, 1.0]), SCHEDULES)
def test_corner_cases(case, iou_threshold, schedule):
    assert_is_the_reference(*case, iou_threshold, schedule)


COORDINATES = st.sampled_from(
    [0.0, -0.0, 1.0, 2.0, 3.0, 1e-30, 1e-42, -5.0, 1e19, 3e38, float("inf"), -float("inf"), float("nan")]
)


@settings(max_examples=300)
@given(hnp.arrays(np.float32, (2, 4, 4), elements=COORDINATES), st.sampled_from([0.0, *THRESHOLDS]))
def test_present_boxes_of_any_coordinates(boxes, iou_threshold):
    """Inverted, infinite, denormal and NaN coordinates: the same as torchvision."""
    scores = torch.tensor([[0.5, 0.25, 0.75, 0.5]] * 2)
    assert_is_the_reference(torch.from_numpy(boxes), scores, iou_threshold)


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


@pytest.mark.parametrize("boxes_per_group", [1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1000, 1023, 1025, 2049])
def test_every_size_around_a_tile_a_warp_and_a_block(boxes_per_group):
    generator = torch.Generator().manual_seed(boxes_per_group)
    corners = torch.rand(2, boxes_per_group, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, boxes_per_group, 2, generator=generator) * 40], dim=2)
    scores = torch.rand(2, boxes_per_group, generator=generator)
    kept = assert_is_the_reference(boxes, scores, 0.5)
    assert (kept >= 0).any(dim=1).all()


def test_the_most_boxes_of_a_group():
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(1, MAX_BOXES, 2, generator=generator) * 300
    boxes = torch.cat([corners, corners + 20], dim=2)
    scores = (torch.rand(1, MAX_BOXES, generator=generator) * 100).round() / 100  # many ties
    kept = assert_is_the_reference(boxes, scores, 0.5)
    assert 0 < int((kept >= 0).sum()) < MAX_BOXES


@pytest.mark.parametrize("schedule", ["forward", "reverse", "shuffled"])
def test_a_chain_in_which_every_decision_depends_on_the_one_before(schedule):
    """Box i overlaps only i - 1 and i + 1, scores fall along the chain: every second box is kept."""
    count = 1100
    left = 4.0 * torch.arange(count)
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 1], dim=1)[None]
    scores = torch.linspace(0.9, 0.1, count)[None]
    kept = assert_is_the_reference(boxes, scores, 0.3, schedule)
    assert ((kept >= 0)[0] == (torch.arange(count) % 2 == 0)).all()


def test_a_thousand_groups_most_of_them_empty():
    generator = torch.Generator().manual_seed(9)
    groups, maximum = 1000, 40
    corners = torch.rand(groups, maximum, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 15], dim=2)
    scores = torch.rand(groups, maximum, generator=generator)
    scores[torch.rand(groups, maximum, generator=generator) < 0.9] = -1
    scores[::3] = -1
    assert_is_the_reference(boxes, scores, 0.5)


@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0)])
def test_empty_groups_give_an_empty_output(shape):
    assert suppress(torch.zeros(*shape, 4), torch.zeros(shape), 0.5).shape == shape
