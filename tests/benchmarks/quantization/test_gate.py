"""Both gates, on detections made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frcnn.benchmarks.accuracy.images import DetectedImage
from frcnn.benchmarks.quantization.gate import AccuracyGate, AgreementGate
from frcnn.errors import UsageError
from frcnn.runtime import Detections
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation
from frcnn.runtime.model_files.artifact import open_artifact

CATEGORIES = {1: 1, 2: 2}
BOX = (20.0, 20.0, 60.0, 60.0)


def found(*rows: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].astype(np.int64), image_size=(99, 99))


def image(name: str, detections: Detections, *objects: int) -> DetectedImage:
    """An image with an object of each category at the same place."""
    annotations = [Annotation(category_id=category, bbox=(20, 20, 40, 40)) for category in objects]
    return DetectedImage(
        Path(name), AnnotatedImage(file_name=name, size=None, annotations=annotations), detections, None
    )


HIT, MISS = found((*BOX, 0.9, 1)), found()


@pytest.fixture
def spec(tiny_model):
    return open_artifact(tiny_model).manifest.model


def test_accuracy_is_judged_by_the_fall_of_ap_in_points():
    gate = AccuracyGate([image("a", HIT, 1), image("b", HIT, 1)], CATEGORIES, max_drop=0.3)
    assert gate.reference["AP"] == pytest.approx(1.0)
    same = gate.judge([HIT, HIT])
    assert (same.drop, same.passed) == (0.0, True)
    worse = gate.judge([HIT, MISS])
    assert worse.drop == pytest.approx(100 * (1 - 51 / 101))
    assert not worse.passed
    assert AccuracyGate([image("a", HIT, 1), image("b", HIT, 1)], CATEGORIES, max_drop=50).judge([HIT, MISS]).passed


def test_a_better_model_has_a_negative_drop():
    gate = AccuracyGate([image("a", HIT, 1), image("b", MISS, 1)], CATEGORIES, max_drop=0.3)
    verdict = gate.judge([HIT, HIT])
    assert verdict.drop < -40 and verdict.passed


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([image("a", HIT), image("b", HIT)], "no object of the model's classes counts"),
        ([image("a", HIT, 9)], "no object of the model's classes counts"),
        ([image("a", MISS, 1)], "the float model's AP is 0"),
    ],
)
def test_images_by_which_every_model_would_pass_are_refused(images, reason):
    with pytest.raises(UsageError, match=reason):
        AccuracyGate(images, CATEGORIES, max_drop=0.3)


def test_agreement_counts_what_is_missing_relabelled_or_moved(spec):
    far = found((20.0, 20.0, 60.0, 50.0, 0.9, 1))
    gate = AgreementGate([image(name, HIT) for name in "abcd"], spec)
    assert gate.judge([HIT] * 4).passed
    assert gate.judge([HIT] * 4).drop == 0
    assert gate.judge([MISS] * 4).drop == gate.judge([far] * 4).drop == 100
    missing = gate.judge([HIT, HIT, HIT, MISS])
    assert (missing.passed, missing.measures["missing"], missing.measures["pairs"]) == (False, pytest.approx(1 / 7), 3)
    relabelled = gate.judge([HIT, HIT, HIT, found((*BOX, 0.9, 2))])
    assert (relabelled.passed, relabelled.measures["missing"]) == (False, pytest.approx(1 / 8))
    moved = gate.judge([far, far, far, HIT])
    assert (moved.passed, moved.measures["moved"], moved.drop) == (False, 0.75, 75.0)


def test_agreement_on_nothing_is_refused(spec):
    with pytest.raises(UsageError, match=r"the float model finds nothing above score 0\.3"):
        AgreementGate([image("a", found((*BOX, 0.2, 1)))], spec)


def test_a_part_that_cannot_judge_is_the_whole(spec):
    images = [image("a", MISS, 1), image("b", HIT, 1), image("c", HIT, 1)]
    for gate in (AccuracyGate(images, CATEGORIES, max_drop=0.3), AgreementGate(images, spec)):
        assert [len(gate.part(count)) for count in (1, 2)] == [3, 2]
