"""frcnn.runtime.results.merge: objects that several slices show become one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from frcnn.runtime.results.merge import box_iou, fused, suppressed

Some = tuple[np.ndarray, np.ndarray, np.ndarray]


def some(seed: int, count: int = 120) -> Some:
    """Return boxes on a small grid, some of no area, so that many overlap by exactly a threshold; scores with ties."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 30, (count, 2))
    boxes = np.concatenate([corners, corners + random.integers(0, 12, (count, 2))], axis=1).astype(np.float32)
    return boxes, (random.integers(1, 60, count) / 64).astype(np.float32), random.integers(1, 4, count)


def iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Return the IoU of two boxes as torchvision's kernel computes it, 0 where it divides by 0."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return np.float32(both / union if union > 0 else 0)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
@given(st.integers(0, 10**6))
def test_nms_keeps_what_the_definition_keeps(threshold: float, seed: int) -> None:
    boxes, scores, labels = some(seed, 25)
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(labels[index] != labels[k] or float(iou(boxes[index], boxes[k])) <= threshold for k in kept):
            kept.append(index)
    assert suppressed(boxes, scores, labels, threshold).tolist() == kept


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_keeps_what_torchvision_keeps(threshold: float) -> None:
    for seed in range(20):
        boxes, scores, labels = some(seed)
        scores = np.random.default_rng(seed).permutation(np.linspace(0.1, 0.9, len(boxes), dtype=np.float32))
        tensors = [torch.from_numpy(array) for array in (boxes, scores, labels)]
        found = suppressed(boxes, scores, labels, threshold)
        assert found.tolist() == torchvision.ops.batched_nms(*tensors, threshold).tolist()
        assert (np.diff(scores[found]) < 0).all()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.55])
def test_weighted_boxes_are_those_of_the_paper(threshold: float) -> None:
    """Section 3 of arXiv:1910.13302 in its own words: a list of clusters, and of the boxes that they are fused to."""
    for seed in range(4):
        boxes, scores, labels = some(seed)
        clusters: list[list[int]] = []
        means: list[np.ndarray] = []
        for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
            same = [labels[index] == labels[members[0]] for members in clusters]
            overlaps = [iou(boxes[index], mean) * own for mean, own in zip(means, same, strict=True)]
            place = int(np.argmax(overlaps)) if overlaps else 0
            if not overlaps or float(overlaps[place]) <= threshold:
                place = len(clusters)
                clusters.append([])
                means.append(boxes[index])
            clusters[place].append(index)
            members = clusters[place]
            means[place] = np.average(boxes[members].astype(float), 0, weights=scores[members]).astype(np.float32)
        averages = np.array([scores[members].astype(float).mean() for members in clusters])
        found_boxes, found_scores, found_labels = fused(boxes, scores, labels, threshold)
        assert (np.diff(found_scores) <= 0).all()
        expected = np.column_stack([means, averages, [labels[members[0]] for members in clusters]])
        found = np.column_stack([found_boxes, found_scores, found_labels])
        np.testing.assert_allclose(
            *(rows[np.lexsort(np.round(rows, 3).T)] for rows in (found, expected)), rtol=1e-6, atol=1e-6
        )


def test_a_box_without_company_is_kept_to_the_bit() -> None:
    boxes, scores, labels = np.float32([[0.1, 0.2, 7.3, 9.7]]), np.float32([0.7]), np.array([2])
    found = fused(boxes, scores, labels, 0.5)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in (boxes, scores, labels)]


def test_scores_of_nothing_and_nothing_at_all_are_merged() -> None:
    boxes = np.float32([[0, 0, 4, 4], [0, 0, 4, 4]])
    mean, score, label = fused(boxes, np.zeros(2, np.float32), np.array([1, 1]), 0.5)
    assert (mean.tolist(), score.round(9).tolist(), label.tolist()) == ([[0, 0, 4, 4]], [0], [1])
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    assert suppressed(*nothing, 0.5).shape == (0,)
    assert [array.shape for array in fused(*nothing, 0.5)] == [(0, 4), (0,), (0,)]


def test_box_iou_of_overlapping_disjoint_and_empty_boxes() -> None:
    a = np.float32([[0, 0, 2, 2], [4, 4, 4, 4]])
    b = np.float32([[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 3, 2], [4, 4, 4, 4]])
    assert box_iou(a, b) == pytest.approx(np.array([[1, 1 / 3, 0, 0], [0, 0, 0, 0]]))
