"""RegionProposals and BoxDetections: function bodies in bare ONNX Runtime against the references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import operator_session, run_operator, run_outputs
from support.stage_inputs import DetectionsForm, anchors_of, box_predictions, image_sizes, present_rois, rpn_predictions
from torch import Tensor

from frcnn.plugins import box_detections, region_proposals
from frcnn.plugins.box_detections.reference import PaddedDetections
from frcnn.plugins.box_detections.reference import box_detections as reference_detections
from frcnn.plugins.region_proposals.reference import ABSENT_ROI
from frcnn.plugins.region_proposals.reference import region_proposals as reference_proposals

FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
ONNX_TYPES = {FLOAT32: onnx.TensorProto.FLOAT, FLOAT16: onnx.TensorProto.FLOAT16, BFLOAT16: onnx.TensorProto.BFLOAT16}
NAN, INF = math.nan, math.inf
CANVAS = (96, 128)


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """RegionProposals with attributes; a limit of 0 on dw and dh makes boxes exact."""

    per_cell: tuple[int, ...]
    pre: int
    post: int
    iou: float = 0.7
    score: float = 0.0
    min_size: float = 1e-3
    max_log_scale: float = 0.0
    box_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    element: torch.dtype = FLOAT32
    anchors: tuple[float, ...] | None = None
    strides: tuple[float, ...] = (0.0,)

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "anchors": self.anchors or anchors_of(self.per_cell),
            "strides": self.strides,
            "box_weights": self.box_weights,
            "max_log_scale": self.max_log_scale,
            "pre_nms_top_n": self.pre,
            "post_nms_top_n": self.post,
            "iou_threshold": self.iou,
            "score_threshold": self.score,
            "min_size": self.min_size,
        }

    def in_onnxruntime(self, sizes: Tensor, images: Tensor, objectness: list[Tensor], deltas: list[Tensor]) -> Tensor:
        return run_operator(session(self), sizes, images, *objectness, *deltas)

    def in_reference(self, *inputs: Any) -> Tensor:
        return reference_proposals(*inputs, **self.attributes)


@dataclass(frozen=True, kw_only=True)
class Boxes(DetectionsForm):
    """BoxDetections on a number of classes."""

    classes: int

    def in_onnxruntime(self, *inputs: Tensor) -> PaddedDetections:
        return PaddedDetections(*run_outputs(session(self), *inputs))

    def in_reference(self, *inputs: Tensor) -> PaddedDetections:
        return reference_detections(*inputs, **self.attributes)


@cache
def session(form: Proposals | Boxes) -> Any:
    features = ONNX_TYPES[form.element]
    if isinstance(form, Boxes):
        return operator_session(
            box_detections.SPEC, box_detections.function(), features=features, attributes=form.attributes
        )
    levels = len(form.per_cell)
    body = region_proposals.function(levels=levels, anchors_per_cell=form.per_cell, strides=form.strides)
    return operator_session(region_proposals.SPEC, body, levels=levels, features=features, attributes=form.attributes)


PROPOSALS = [
    Proposals(per_cell=(3,), pre=20, post=10),
    Proposals(per_cell=(1, 4), pre=1000, post=3000, strides=(7.0,)),  # more than there are candidates
    Proposals(per_cell=(3, 3, 3), pre=7, post=30, iou=0.9, strides=(9.0, 0.0, 31.0)),  # R is 21
    Proposals(per_cell=(2, 1, 3, 1), pre=40, post=50, score=0.3, element=FLOAT16),
    Proposals(per_cell=(3,) * 5, pre=50, post=100, iou=0.3, min_size=6.0, element=BFLOAT16),
    Proposals(per_cell=(1, 2, 3, 3, 2, 1), pre=30, post=60, box_weights=(2.0, 4.0, 1.0, 1.0)),
]
DETECTIONS = [
    Boxes(classes=2, most=5),
    Boxes(classes=2, most=100, score=0.4, iou=0.3),
    Boxes(classes=3, most=7, min_size=20.0, element=BFLOAT16),
    Boxes(classes=7, most=40, score=0.0, iou=0.7),
    Boxes(classes=40, most=20, score=0.01, element=FLOAT16),
    Boxes(classes=40, most=3000, score=0.02, box_weights=(1.0, 2.0, 1.0, 1.0)),  # more than there are pairs
]
BROKEN = st.sampled_from([0.0, 0.1, 1.0])


def assert_are_the_reference(found: PaddedDetections, expected: PaddedDetections, tolerance_px: float = 0.0) -> None:
    """Compare decisions exactly and scores to 1e-6 of their size, which is 8 last bits."""
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
    assert torch.equal(found.num_detections, expected.num_detections)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=tolerance_px)


@pytest.mark.slow
@pytest.mark.parametrize("form", PROPOSALS, ids=repr)
@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), BROKEN)
def test_proposals(form, seed, images, height, width, broken):
    rng = np.random.default_rng(seed)
    canvas, *heads = rpn_predictions(
        rng, images, form.per_cell, cells=(height, width), broken=broken, element=form.element
    )
    sizes = image_sizes(rng, images, canvas.shape[2:])
    found, expected = form.in_onnxruntime(sizes, canvas, *heads), form.in_reference(sizes, canvas, *heads)
    assert found.shape == (images, min(form.post, len(form.per_cell) * form.pre), 4)
    assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", DETECTIONS, ids=repr)
@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.0]), BROKEN)
def test_detections(form, seed, images, per_image, absent, broken):
    rng = np.random.default_rng(seed)
    rois = present_rois(rng, images, per_image, CANVAS)
    rois[torch.from_numpy(rng.uniform(size=(images, per_image)) < absent)] = torch.tensor(ABSENT_ROI)
    predictions = box_predictions(
        rng, images * per_image, form.classes, score_threshold=form.score, broken=broken, element=form.element
    )
    inputs = (rois, image_sizes(rng, images, CANVAS), *predictions)
    assert_are_the_reference(form.in_onnxruntime(*inputs), form.in_reference(*inputs))


@pytest.mark.parametrize("seed", range(3))
def test_proposals_of_any_size(seed):
    """No box is suppressed or too small, so the order is that of logits; sides of up to 500 px have an error of exp."""
    form = Proposals(per_cell=(3, 2), pre=60, post=90, iou=1.0, min_size=0.0, max_log_scale=math.log(1000 / 16))
    rng = np.random.default_rng(seed)
    canvas, *heads = rpn_predictions(rng, 2, form.per_cell, cells=(9, 11), exact=False)
    sizes = image_sizes(rng, 2, canvas.shape[2:])
    found, expected = form.in_onnxruntime(sizes, canvas, *heads), form.in_reference(sizes, canvas, *heads)
    assert (expected[..., 2] >= 0).all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_detections_of_any_size(seed):
    form = Boxes(classes=9, most=60, iou=1.0, min_size=0.0, max_log_scale=math.log(1000 / 16))
    rng = np.random.default_rng(seed)
    predictions = box_predictions(rng, 2 * 40, form.classes, score_threshold=form.score, exact=False)
    inputs = (present_rois(rng, 2, 40, CANVAS), image_sizes(rng, 2, CANVAS), *predictions)
    found, expected = form.in_onnxruntime(*inputs), form.in_reference(*inputs)
    assert expected.num_detections.tolist() == [60, 60]
    assert_are_the_reference(found, expected, tolerance_px=1e-4)


@pytest.fixture(params=["in_reference", "in_onnxruntime"])
def face(request) -> str:
    return request.param


ONE = (1.0, 1.0, 1.0, 1.0)
ROW = torch.tensor([[8, 64]], dtype=torch.int32)  # an image of one row of 8 px cells
ROW_IMAGE = torch.zeros(1, 3, 8, 64)
CELL, TWO_CELLS = (0.0, 0.0, 8.0, 8.0), (0.0, 0.0, 16.0, 8.0)


def propose(face: str, logits: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]], **attributes: Any) -> Any:
    """Return the proposals of a row of cells: logits of each level, and a level's one anchor."""
    anchors = tuple(value for level, box in enumerate(boxes) for value in (float(level), *box))
    form = Proposals(per_cell=(1,) * len(boxes), anchors=anchors, **attributes)
    objectness = [torch.tensor([[[row]]]) for row in logits]
    deltas = [torch.zeros(1, 4, 1, len(row)) for row in logits]
    return getattr(form, face)(ROW, ROW_IMAGE, objectness, deltas)[0].tolist()


def cell(column: int, width: int = 8) -> list[float]:
    return [8.0 * column, 0.0, 8.0 * column + width, 8.0]


FIRST_FOUR = [0.5, 2.0, 1.0, 2.0, -9.0, -9.0, -9.0, -9.0]


def test_proposals_come_by_falling_logit_and_equal_ones_by_index(face):
    assert propose(face, [FIRST_FOUR], [CELL], pre=4, post=4) == [cell(1), cell(3), cell(2), cell(0)]


def test_the_rows_past_the_last_proposal_are_absent(face):
    logits = [NAN, 1.0, -INF, NAN, 3.0, NAN, -INF, NAN]
    assert propose(face, [logits], [CELL], pre=5, post=4) == [cell(4), cell(1), [0, 0, -1, -1], [0, 0, -1, -1]]


def test_nothing_is_present(face):
    assert propose(face, [[NAN] * 8], [CELL], pre=8, post=3) == [[0, 0, -1, -1]] * 3


def test_equal_sigmoids_keep_the_order_of_their_logits(face):
    """All scores are 1 in float32; each box has an IoU of 1/3 with the next."""
    logits = [30.0, 50.0, 40.0, 20.0, NAN, NAN, NAN, NAN]
    found = propose(face, [logits], [TWO_CELLS], pre=8, post=4, iou=0.25)
    assert found == [cell(1, 16), cell(3, 16), [0, 0, -1, -1], [0, 0, -1, -1]]


def test_equal_scores_come_by_level_and_levels_do_not_suppress_each_other(face):
    logits = [[0.5] + [NAN] * 7, [2.0, 0.5] + [NAN] * 6]
    assert propose(face, logits, [CELL, CELL], pre=8, post=4) == [cell(0), cell(0), cell(1), [0, 0, -1, -1]]


def test_a_score_of_exactly_the_threshold_is_present_and_a_side_of_exactly_the_least(face):
    assert propose(face, [[0.0] + [-1.0] * 7], [CELL], pre=8, post=2, score=0.5, min_size=8.0)[0] == cell(0)
    assert propose(face, [[-0.25] * 8], [CELL], pre=8, post=2, score=0.5) == [[0, 0, -1, -1]] * 2
    assert propose(face, [[0.0] * 8], [CELL], pre=8, post=2, min_size=8.5) == [[0, 0, -1, -1]] * 2


def test_only_a_least_side_of_0_keeps_a_box_without_width(face):
    """The second cell's box is clipped to the right side of its image, as MMDetection keeps it and Detectron2 not."""
    right, line = [56.0, 0.0, 64.0, 8.0], [64.0, 0.0, 64.0, 8.0]
    logits = [[1.0, 0.5] + [NAN] * 6]
    assert propose(face, logits, [right], pre=8, post=2, score=-1.0, min_size=0.0) == [right, line]
    assert propose(face, logits, [right], pre=8, post=2, score=-1.0, min_size=1e-30) == [right, [0, 0, -1, -1]]
    thin = [-8.0, 0.0, 2**-20, 8.0]
    assert propose(face, logits, [thin], pre=8, post=1, min_size=1e-30) == [[0.0, 0.0, 2**-20, 8.0]]


def test_strides_move_anchors_on_a_canvas_that_is_no_multiple(face):
    """A map of 50 x 67 cells of 16 px on a canvas of 800 x 1067, where canvas // map is 15, and 6,000 candidates."""
    rng = np.random.default_rng(0)
    sizes, canvas = torch.tensor([[800, 1067]], dtype=torch.int32), torch.zeros(1, 3, 800, 1067)
    logits = torch.from_numpy(rng.permutation(2 * 50 * 67).astype(np.float32) / 1000).reshape(1, 2, 50, 67)
    anchors = (0.0, -8.0, -8.0, 8.0, 8.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    form = Proposals(per_cell=(2,), pre=6000, post=6000, anchors=anchors, strides=(16.0,), iou=1.0)
    (found,) = getattr(form, face)(sizes, canvas, [logits], [torch.zeros(1, 8, 50, 67)])
    order = logits.permute(0, 2, 3, 1).flatten().argsort(descending=True)[:6000]
    cells, is_small = order // 2, order % 2
    left_top = 16.0 * torch.stack([cells % 67, cells // 67], 1)
    boxes = torch.cat([left_top - 8, left_top + 8], 1)
    boxes[is_small == 1] = torch.cat([left_top, left_top + 1], 1)[is_small == 1]
    assert torch.equal(found, boxes.clamp(min=0).minimum(torch.tensor([1067.0, 800.0] * 2)))


def detect(face: str, scores: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]], **attributes: Any) -> Any:
    """Return the detections (label, box) of RoIs that stay where they are, by scores without the background."""
    background = [1 - sum(row) for row in scores]
    logits = torch.tensor([[rest, *row] for rest, row in zip(background, scores, strict=True)]).log()
    form = Boxes(classes=logits.shape[1], **attributes)
    inputs = (torch.tensor([boxes]), torch.tensor([[64, 64]], dtype=torch.int32), logits, torch.zeros_like(logits))
    found = getattr(form, face)(*inputs[:3], inputs[3].repeat(1, 4))
    count = int(found.num_detections[0])
    assert not any(tensor[0, count:].any() for tensor in found[1:])
    return list(zip(found.labels[0, :count].tolist(), found.boxes[0, :count].tolist(), strict=True))


A, B, FAR = [0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 16.0, 15.0], [32.0, 32.0, 48.0, 48.0]


def test_equal_scores_come_by_roi_and_then_class(face):
    quarter = [0.25, 0.25]
    assert detect(face, [quarter, quarter], [A, FAR], most=9) == [(1, A), (2, A), (1, FAR), (2, FAR)]
    assert detect(face, [quarter, quarter], [A, FAR], most=3) == [(1, A), (2, A), (1, FAR)]


def test_a_class_suppresses_only_itself(face):
    assert detect(face, [[0.25, 0.0625], [0.5, 0.125]], [A, B], most=9) == [(1, B), (2, B)]
    assert detect(face, [[0.25, 0.125], [0.5, 0.0625]], [A, B], most=9) == [(1, B), (2, A)]


def test_an_absent_roi_makes_no_detection(face):
    assert detect(face, [[0.5], [0.25], [0.75]], [list(ABSENT_ROI), A, [NAN] * 4], most=2) == [(1, A)]


def test_a_roi_without_width_is_present_and_one_of_less_is_not(face):
    line = [5.0, 4.0, 5.0, 9.0]
    assert detect(face, [[0.5], [0.25]], [line, list(ABSENT_ROI)], most=2, min_size=0.0) == [(1, line)]


def test_a_score_of_exactly_the_threshold_is_no_candidate(face):
    assert detect(face, [[0.5]], [A], most=2, score=0.5) == []
    assert detect(face, [[0.5]], [A], most=2, score=0.49) == [(1, A)]


def test_nothing_is_detected(face):
    assert detect(face, [[0.015625], [0.03125]], [A, FAR], most=2) == []
    assert detect(face, [[0.5]], [A], most=2, min_size=16.5) == []
