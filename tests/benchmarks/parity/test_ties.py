"""Choices among equal scores are told from differences, on detections made by hand and on a model of random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
from support.images import photographs

from frcnn.benchmarks.candidates.eager_detector import Alternatives, EagerDetector
from frcnn.benchmarks.parity.comparison import ImageParity, compare_detections, default_limits
from frcnn.benchmarks.trial import digits
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec

EXACT = default_limits("fp32", "align")
KEPT, RIVAL = (10, 10, 60, 60), (10, 10, 60, 48)  # an IoU of 0.76
ELSEWHERE = (100, 100, 160, 160)


def make(*found: tuple[tuple[float, ...], float] | tuple[tuple[float, ...], float, int]) -> Detections:
    return Detections(
        boxes=np.array([one[0] for one in found], np.float32).reshape(-1, 4),
        scores=np.array([one[1] for one in found], np.float32),
        labels=np.array([one[2] if len(one) == 3 else 1 for one in found], np.int64),
        image_size=(200, 200),
    )


@pytest.fixture
def spec(exports) -> ModelSpec:
    spec = exports.spec("resnet18_fpn_max")
    heads = msgspec.structs.replace(spec.roi_heads, score_thresh=0.05, nms_thresh=0.5, detections_per_img=4)
    return msgspec.structs.replace(spec, roi_heads=heads)


@pytest.fixture
def compared(spec) -> Callable[..., ImageParity]:
    def compare(expected, found, *, own=(), last=(), tied=(), known: bool = True) -> ImageParity:
        given = Alternatives(make(*own), make(*last), make(*tied))
        alternatives = (lambda noise: given) if known else None
        return compare_detections(make(*expected), make(*found), spec, EXACT, name="image", alternatives=alternatives)

    return compare


ALONE = (ELSEWHERE, 0.9)


def test_the_other_of_two_boxes_with_one_score_is_tied(compared):
    expected, found = [ALONE, (KEPT, 0.70001)], [ALONE, (RIVAL, 0.7)]
    result = compared(expected, found, own=[*expected, *found])
    assert result.passes(EXACT)
    assert (result.matched, result.tied, result.unmatched, result.moved, result.box_px, result.iou) == (
        1,
        2,
        0,
        0,
        0,
        1,
    )
    assert not compared(expected, found, known=False).passes(EXACT), "a tie is told only where it is proved"


@pytest.mark.parametrize(
    ("own", "found"),
    [
        pytest.param([(KEPT, 0.7), (RIVAL, 0.7)], (tuple(np.add(RIVAL, 0.05)), 0.7), id="torchvision has no such box"),
        pytest.param([(KEPT, 0.7), (RIVAL, 0.7)], (RIVAL, 0.7, 2), id="nor of this label"),
        pytest.param([(KEPT, 0.7), (RIVAL, 0.7)], (RIVAL, 0.6997), id="nor of this score"),
        pytest.param([(KEPT, 0.7), (RIVAL, 0.699)], (RIVAL, 0.699), id="the scores differ"),
        pytest.param([(KEPT, 0.9999), (RIVAL, 0.99992)], (RIVAL, 0.99992), id="logits near 1 differ, not scores"),
    ],
)
def test_what_is_not_proved_is_a_difference(own, found, compared):
    result = compared([ALONE, own[0]], [ALONE, found], own=[ALONE, *own])
    assert not result.passes(EXACT)
    assert result.tied == 0


def test_a_box_that_nms_should_have_suppressed_is_no_tie(compared):
    expected, found = [ALONE, (KEPT, 0.7)], [ALONE, (KEPT, 0.7), (RIVAL, 0.7)]
    result = compared(expected, found, own=found)
    assert (result.tied, result.unmatched) == (0, 1)
    assert not result.passes(EXACT)


def test_a_box_that_is_missing_without_another_in_its_place_is_no_tie(compared):
    expected = [ALONE, (KEPT, 0.7)]
    result = compared(expected, [ALONE], own=[*expected, (RIVAL, 0.7)])
    assert (result.tied, result.unmatched) == (0, 1)


def test_what_a_tied_box_suppresses_is_tied_too(compared):
    """Of two equal boxes one suppresses a third and the other does not."""
    rest = [ALONE, ((100, 10, 160, 60), 0.8)]
    upper, lower, lowest = (10, 12, 60, 58), (10, 20, 60, 70), (10, 36, 60, 78)
    expected, found = [*rest, (lower, 0.7)], [*rest, (upper, 0.7), (lowest, 0.4)]
    everything = [*expected, *found]
    for eager, model in ((expected, found), (found, expected)):
        result = compared(eager, model, own=everything)
        assert result.passes(EXACT)
        assert (result.matched, result.tied) == (2, 3)
        assert not compared(eager, model, own=eager).passes(EXACT)


def test_the_end_of_a_full_list_is_tied(compared):
    grid = [((40 * i, 0, 40 * i + 30, 30), 0.5) for i in range(5)]
    near = ((35, 0, 65, 30), 0.5)  # overlaps the second box of the grid by 0.71: no pair of one object
    expected, found = grid[:4], [grid[0], grid[4], near, grid[3]]
    result = compared(expected, found, own=[*grid, near])
    assert result.passes(EXACT)
    assert (result.matched, result.tied) == (2, 4)
    assert not compared(expected, found, own=grid).passes(EXACT)


def test_a_proposal_that_ties_gives_another_box_and_another_score(compared):
    expected, found = [ALONE, (KEPT, 0.7)], [ALONE, (RIVAL, 0.66)]
    assert compared(expected, found, own=expected, tied=found[1:]).passes(EXACT)
    assert not compared(expected, found, own=[*expected, *found]).passes(EXACT)
    both = [ALONE, (KEPT, 0.7), (RIVAL, 0.66)]
    assert not compared(expected, both, own=expected, tied=found[1:]).passes(EXACT), "NMS would have suppressed it"


def test_a_detection_of_a_proposal_at_the_end_of_their_list_may_be_missing(compared):
    expected = [ALONE, (KEPT, 0.7)]
    assert compared(expected, [ALONE], own=expected, last=expected[1:]).passes(EXACT)


def test_where_most_is_tied_too_little_is_left_to_compare(compared):
    expected, found = [ALONE, (KEPT, 0.7)], [ALONE, (RIVAL, 0.7)]
    half = compared(expected, found, own=[*expected, *found])
    assert half.passes(EXACT)
    assert half.passes(msgspec.structs.replace(EXACT, tied=0.5))
    assert not half.passes(msgspec.structs.replace(EXACT, tied=0.49))
    every = compared(expected[1:], found[1:], own=[*expected, *found])
    assert not every.passes(msgspec.structs.replace(EXACT, tied=1.0)), "no pair is left"


@pytest.fixture(scope="module")
def untrained() -> EagerDetector:
    torch.manual_seed(0)
    model = digits.build(num_classes=4, min_size=128, max_size=256).eval()
    return EagerDetector(model, read_model_spec(model))


def run(eager: EagerDetector, other: EagerDetector) -> ImageParity:
    image = RGBImage(pixels=photographs((100, 150))[0], name="photograph")
    canvas = eager.spec.transform.canvas_size(*eager.spec.transform.resized_size(*image.size))
    return compare_detections(
        eager.detect(image, canvas),
        other.detect(image, canvas),
        eager.spec,
        EXACT,
        name=image.name,
        alternatives=partial(eager.alternatives, image, canvas),
    )


def changed(eager: EagerDetector, change: Callable[[torch.nn.Module], object]) -> EagerDetector:
    model = copy.deepcopy(eager.model)
    change(model)
    return EagerDetector(model, eager.spec)


def rounded(model: torch.nn.Module) -> None:
    """Let the last layers round otherwise: noise of 1e-6 in every logit."""

    def disturb(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits + 1e-6 * (2 * torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) - 1)

    for layer in (model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score):
        layer.register_forward_hook(disturb)


def test_random_weights_that_round_otherwise_agree_with_ties(untrained):
    result = run(untrained, changed(untrained, rounded))
    assert result.passes(EXACT), result
    assert result.tied > 0 and result.matched > 0
    assert result.box_px <= 0.01


def shift(model: torch.nn.Module) -> None:
    model.roi_heads.box_predictor.bbox_pred.bias.data += 0.01


def scale(model: torch.nn.Module) -> None:
    model.rpn.anchor_generator.cell_anchors = [a * 1.01 for a in model.rpn.anchor_generator.cell_anchors]


def keep_all(model: torch.nn.Module) -> None:
    model.roi_heads.nms_thresh = 1.0


def turn_round(model: torch.nn.Module) -> None:
    model.rpn.head.cls_logits.weight.data *= -1


@pytest.mark.parametrize("fault", [shift, scale, keep_all, turn_round], ids=lambda fault: fault.__name__)
def test_a_fault_is_not_hidden_by_ties_of_random_weights(fault, untrained):
    def faulty(model: torch.nn.Module) -> None:
        rounded(model)
        fault(model)

    assert not run(untrained, changed(untrained, faulty)).passes(EXACT)
