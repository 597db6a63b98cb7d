from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from frcnn.benchmarks.parity.matching import match
from frcnn.runtime import Detections
from frcnn.runtime.results.merge import box_iou


def make(boxes, labels=None, scores=None) -> Detections:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Detections(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32) if scores is None else np.array(scores, np.float32),
        labels=np.ones(count, np.int64) if labels is None else np.array(labels, np.int64),
        image_size=(100, 100),
    )


@st.composite
def proposals(draw) -> Detections:
    """Draw up to twelve boxes on a coarse lattice, so that many overlap by 0.5 and more, some of them equally."""
    count = draw(st.integers(0, 12))
    corners = draw(hnp.arrays(np.int64, (count, 2), elements=st.integers(0, 4)))
    sizes = draw(hnp.arrays(np.int64, (count, 2), elements=st.integers(0, 6)))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(1, 2)))
    return make(np.concatenate([corners, corners + sizes], axis=1), labels)


@given(proposals(), proposals())
def test_each_detection_is_used_once_and_none_is_lost(expected, found):
    matches = match(expected, found)
    e, f = matches.pairs[:, 0], matches.pairs[:, 1]
    assert sorted([*e, *matches.only_expected]) == list(range(len(expected)))
    assert sorted([*f, *matches.only_found]) == list(range(len(found)))


@given(proposals(), proposals())
def test_pairs_overlap_by_half_or_more_and_what_is_left_does_not(expected, found):
    matches = match(expected, found)
    ious = box_iou(expected.boxes, found.boxes)
    assert np.array_equal(matches.ious, ious[matches.pairs[:, 0], matches.pairs[:, 1]])
    assert (matches.ious >= 0.5).all()
    assert (ious[np.ix_(matches.only_expected, matches.only_found)] < 0.5).all()


@given(proposals(), proposals())
def test_swapping_sides_leaves_counts_labels_and_overlaps(expected, found):
    there, back = match(expected, found), match(found, expected)
    # Greedy pairing by falling overlap: equal overlaps may be paired in another order, unequal ones may not.
    all_ious = box_iou(expected.boxes, found.boxes)
    relevant = all_ious[all_ious >= 0.5]
    if len(np.unique(relevant)) == len(relevant):
        assert sorted(map(tuple, there.pairs)) == sorted((e, f) for f, e in back.pairs)
    assert np.array_equal(box_iou(expected.boxes, found.boxes), box_iou(found.boxes, expected.boxes).T)


@given(proposals())
def test_detections_match_themselves(detections):
    is_box = (detections.boxes[:, 2:] > detections.boxes[:, :2]).all(1)
    matches = match(detections, detections)
    assert len(matches.pairs) == is_box.sum()
    assert np.array_equal(detections.labels[matches.pairs[:, 0]], detections.labels[matches.pairs[:, 1]])
    assert (matches.ious == 1).all()


def test_the_same_label_goes_before_the_larger_overlap():
    expected = make([[0, 0, 10, 10]], labels=[2])
    found = make([[0, 0, 10, 10], [0, 0, 10, 8]], labels=[1, 2])
    assert match(expected, found).pairs.tolist() == [[0, 1]]


def test_the_larger_overlap_goes_first():
    expected = make([[0, 0, 10, 10], [0, 0, 10, 9]])
    found = make([[0, 0, 10, 9], [0, 0, 10, 6]])
    matches = match(expected, found)
    assert sorted(matches.pairs.tolist()) == [[0, 1], [1, 0]]


def test_another_label_is_paired_where_nothing_else_is_left():
    matches = match(make([[0, 0, 10, 10]], labels=[1]), make([[0, 0, 10, 10]], labels=[2]))
    assert matches.pairs.tolist() == [[0, 0]]


@pytest.mark.parametrize(("width", "pairs"), [(10, 1), (5, 1), (4.99, 0)])
def test_an_iou_of_half_is_a_pair(width, pairs):
    assert len(match(make([[0, 0, 10, 1]]), make([[0, 0, width, 1]])).pairs) == pairs


def test_nothing_matches_nothing():
    matches = match(make([]), make([[0, 0, 1, 1]]))
    assert matches.pairs.shape == (0, 2) and matches.ious.shape == (0,)
    assert (matches.only_expected.tolist(), matches.only_found.tolist()) == ([], [0])
