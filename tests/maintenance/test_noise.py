from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from maintenance.noise import as_float64, network_detections, noise_between
from support.images import LANDSCAPE, network_input

from frcnn.runtime import Detections

BOXES = np.array([[10, 10, 60, 50], [100, 20, 180, 90], [30, 100, 90, 180], [120, 120, 190, 190]], np.float32)


def make(boxes=BOXES, scores=(0.9, 0.8, 0.7, 0.6), labels=(1, 1, 1, 1)) -> Detections:
    return Detections(
        boxes=np.asarray(boxes), scores=np.asarray(scores), labels=np.asarray(labels), image_size=(200, 200)
    )


@pytest.fixture
def spec(exports):
    return exports.spec("resnet18_fpn_max")  # score threshold 0.2, 20 detections


def test_equal_detections_have_no_distance(spec):
    noise = noise_between([make()], [make()], spec)
    assert (noise.pairs, noise.unmatched) == (4, 0)
    assert (noise.box_px_rms, noise.box_px_max, noise.score_rms, noise.score_max) == (0, 0, 0, 0)


def test_root_mean_square_and_maximum_are_measured(spec):
    boxes = BOXES.copy()
    boxes[0, 0] += 3
    boxes[1, 3] -= 4
    noise = noise_between([make()], [make(boxes, (0.9, 0.8, 0.7, 0.5))], spec)
    assert noise.box_px_max == 4
    assert noise.box_px_rms == pytest.approx(np.sqrt((9 + 16) / 16))
    assert noise.score_max == pytest.approx(0.1)
    assert noise.score_rms == pytest.approx(0.05)


def test_a_missing_and_a_relabelled_detection_are_unmatched(spec):
    assert noise_between([make()], [make(BOXES[:3], (0.9, 0.8, 0.7), (1, 1, 1))], spec).unmatched == pytest.approx(
        1 / 7
    )
    relabelled = noise_between([make()], [make(labels=(1, 1, 1, 2))], spec)
    assert (relabelled.pairs, relabelled.unmatched) == (3, pytest.approx(2 / 8))


def test_a_detection_at_the_cut_off_does_not_count(spec):
    extra = make(np.concatenate([BOXES, [[1, 1, 9, 9]]]), (0.9, 0.8, 0.7, 0.6, 0.2005), (1, 1, 1, 1, 1))
    assert noise_between([make()], [extra], spec).unmatched == 0


def test_images_are_pooled_and_must_be_equally_many(spec):
    boxes = BOXES + np.float32(1)
    noise = noise_between([make(), make()], [make(), make(boxes)], spec)
    assert noise.pairs == 8
    assert noise.box_px_rms == pytest.approx(np.sqrt(0.5))
    with pytest.raises(ValueError, match="zip"):
        noise_between([make()], [], spec)


def test_float64_is_a_copy_and_closer_to_itself_than_float32_is(exports):
    model, spec = exports.model("resnet18_fpn_max"), exports.spec("resnet18_fpn_max")
    exact = as_float64(model)
    assert {p.dtype for p in exact.parameters()} == {torch.float64}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    images, sizes = network_input(model, spec, LANDSCAPE)
    reference = network_detections(exact, spec, images, sizes)
    again = noise_between(reference, network_detections(as_float64(exact), spec, images, sizes), spec)
    assert again.box_px_max == again.score_max == 0
    single = noise_between(reference, network_detections(model, spec, images, sizes), spec)
    assert 0 < single.box_px_rms < 1e-3
    assert 0 < single.score_rms < 1e-4

    other = copy.deepcopy(model)
    with torch.no_grad():
        other.roi_heads.box_predictor.bbox_pred.weight.mul_(1.001)
    wrong = noise_between(reference, network_detections(other, spec, images, sizes), spec)
    assert wrong.box_px_rms > 2 * single.box_px_rms  # what parity tests would call a failure
