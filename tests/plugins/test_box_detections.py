"""BoxDetections on CUDA, run on the CPU from the same sources, against the reference.

Inputs are such that no decision depends on the last bits of exp (``support.stage_inputs``): decisions and boxes are
then equal bit by bit, and scores to 1e-6 of their size.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.host_driver import HostArray, HostDriver, operator_on_host
from support.simt import SCHEDULES, require_compiler, run_on_host
from support.stage_inputs import DetectionsForm, box_predictions, image_sizes, present_rois
from torch import Tensor
from torchvision.ops import nms

from frcnn.errors import KernelError
from frcnn.plugins.box_detections.kernel import MAX_DETECTIONS, MAX_ROIS, kernels
from frcnn.plugins.box_detections.reference import PaddedDetections, box_detections
from frcnn.plugins.cuda.launch import LoadedOperator
from frcnn.plugins.region_proposals.reference import ABSENT_ROI

CANVAS = (96, 128)
NEVER = -200.0  # a logit whose exponential is 0 beside a logit of 0
NAN, INF = math.nan, math.inf
EACH_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


class Form(DetectionsForm):
    """The kernels with attributes."""

    def run(self, *inputs: Tensor, schedule: str = "forward") -> PaddedDetections:
        names = ("rois", "image_sizes", "class_logits", "box_deltas")
        launches = kernels(element=str(self.element).removeprefix("torch."), **self.attributes)
        found = run_on_host(launches, dict(zip(names, inputs, strict=True)), schedule=schedule)
        return PaddedDetections(*(found[name] for name in PaddedDetections._fields))

    def check(self, *inputs: Tensor, schedule: str = "forward", tolerance_px: float = 0.0) -> PaddedDetections:
        """Hold the kernels to the reference, and return the detections."""
        found, expected = self.run(*inputs, schedule=schedule), box_detections(*inputs, **self.attributes)
        assert torch.equal(found.num_detections, expected.num_detections)
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=tolerance_px)
        return found


USUAL = Form(most=100)
MOST = Form(most=MAX_DETECTIONS)
FORMS = [
    USUAL,
    MOST,
    Form(most=10, score=0.0, iou=0.7, box_weights=(1.0, 2.0, 1.0, 1.0)),
    Form(most=20, score=0.01, element=torch.float16),
    Form(most=1, score=0.2, iou=0.3, min_size=20.0, element=torch.bfloat16),
]


def sizes_of(images: int) -> Tensor:
    return torch.tensor(CANVAS, dtype=torch.int32).repeat(images, 1)


def tied_logits(rng: np.random.Generator, rois: int, classes: int, most: int) -> Tensor:
    """Return (rois, C): 1 to ``most`` random classes share the whole score of a row, so that scores are 1 / n."""
    places = rng.uniform(size=(rois, classes)).argsort(axis=1)
    return torch.from_numpy(np.where(places < rng.integers(1, most + 1, (rois, 1)), 0.0, NEVER).astype(np.float32))


def grid_of_rois(rois: int) -> Tensor:
    """Return (1, rois, 4) boxes of 1 px that do not touch, on the canvas."""
    left, top = torch.arange(rois) % 64 * 2.0, torch.arange(rois) // 64 * 1.25
    return torch.stack([left, top, left + 1, top + 1], dim=1)[None]


def scores_of_one_class(scores: Tensor) -> Tensor:
    """Return logits (R, 2) of rising or falling scores."""
    return torch.stack([torch.zeros_like(scores), torch.logit(scores)], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=repr)
@settings(max_examples=8)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.sampled_from([2, 3, 7, 34])),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(list(SCHEDULES)),
)
def test_detections(form, seed, shape, absent, broken, schedule):
    """Equal scores in a row and between rows, absent RoIs, NaN and infinite logits and deltas."""
    (images, per_image, classes), rng = shape, np.random.default_rng(seed)
    rois = present_rois(rng, images, per_image, CANVAS)
    rois[torch.from_numpy(rng.uniform(size=(images, per_image)) < absent)] = torch.tensor(ABSENT_ROI)
    predictions = box_predictions(
        rng, images * per_image, classes, score_threshold=form.score, broken=broken, element=form.element
    )
    form.check(rois, image_sizes(rng, images, CANVAS), *predictions, schedule=schedule)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_rois_of_any_corners(seed, per_image):
    """Inverted, infinite and NaN corners."""
    rng = np.random.default_rng(seed)
    rois = present_rois(rng, 1, per_image, CANVAS)
    values = torch.from_numpy(rng.choice(np.float32([NAN, INF, -INF, 3e38, -3e38, 0.0, 64.0]), rois.shape))
    rois = torch.where(torch.from_numpy(rng.uniform(size=rois.shape) < 0.2), values, rois)
    predictions = box_predictions(rng, per_image, 3, score_threshold=0.05)
    USUAL.check(rois, image_sizes(rng, 1, CANVAS), *predictions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "per_image", "classes", "sharing"),
    [
        (16, 20, 4, 3),
        (1, 1, 3, 2),
        (1, 32, 32, 4),
        (2, 33, 33, 4),
        (1, 31, 129, 19),
        (1, 255, 3, 2),
        (1, 256, 3, 1),
        (1, 257, 3, 2),
        (1, 1000, 91, 19),
        (2, 1025, 3, 2),
        (1, 40, 1025, 19),
        (1, 60, 1203, 25),
        (1, MAX_ROIS, 2, 2),
    ],
)
def test_every_size_around_a_word_a_block_and_a_pass(images, per_image, classes, sharing):
    rng = np.random.default_rng(per_image)
    rois = present_rois(rng, images, per_image, CANVAS)
    rois[:, 5::9] = torch.tensor(ABSENT_ROI)
    logits = tied_logits(rng, images * per_image, classes, sharing)
    deltas = torch.from_numpy(rng.normal(0, 0.5, (images * per_image, 4 * classes)).astype(np.float32))
    deltas.view(-1, classes, 4)[..., 2:].abs_()
    found = USUAL.check(rois, image_sizes(rng, images, CANVAS), logits, deltas)
    assert per_image == 1 or (found.num_detections > 0).all()


@pytest.mark.slow
@EACH_SCHEDULE
def test_lists_that_shared_memory_does_not_hold_are_merged_in_passes(schedule):
    """1,202 classes with 10 detections each, and two with 4,096."""
    many = FORMS[2]
    rois, deltas = grid_of_rois(24), torch.zeros(24, 4 * 1203)
    logits = torch.zeros(24, 1203)
    logits[torch.arange(24) % 5 == 3] = torch.arange(1203) % 7.0
    found = many.check(rois, sizes_of(1), logits, deltas, schedule=schedule)
    assert found.num_detections.tolist() == [10]
    if schedule == "forward":
        logits = tied_logits(np.random.default_rng(8), MAX_ROIS, 3, 2)
        found = MOST.check(grid_of_rois(MAX_ROIS), sizes_of(1), logits, torch.zeros(MAX_ROIS, 12))
        assert found.num_detections.tolist() == [MAX_DETECTIONS]


@EACH_SCHEDULE
def test_of_more_equal_scores_than_wanted_the_first_rois_and_classes_are_taken(schedule):
    rois, logits = grid_of_rois(300), torch.tensor([[NEVER, 0.0, 0.0]]).repeat(300, 1)
    found = USUAL.check(rois, sizes_of(1), logits, torch.zeros(300, 12), schedule=schedule)
    assert found.labels.tolist() == [[1, 2] * 50]
    assert torch.equal(found.boxes[0, ::2], rois[0, :50])


def test_of_equal_boxes_and_scores_the_first_roi_is_kept():
    rois = torch.tensor([[[8.0, 8.0, 24.0, 24.0]] * 70])
    logits = torch.tensor([[NEVER, 0.0, 0.0]]).repeat(70, 1)
    logits[41] = torch.tensor([NEVER, NEVER, 0.0])
    found = USUAL.check(rois, sizes_of(1), logits, torch.zeros(70, 12))
    assert found.num_detections.tolist() == [2]
    assert found.scores[0, :2].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "row",
    [[0.0, NEVER, NEVER], [0.0, NAN, 0.0], [0.0, INF, 0.0], [-INF] * 3],
    ids=["background", "NaN", "infinite", "all -inf"],
)
def test_rows_without_a_candidate(row):
    found = USUAL.check(grid_of_rois(40), sizes_of(1), torch.tensor([row] * 40), torch.zeros(40, 12))
    assert found.num_detections.tolist() == [0]


def test_a_score_of_exactly_the_threshold_is_none():
    """20 classes share the first row, 19 the second; float32 has one number for 1 / 20 and 0.05."""
    logits = torch.zeros(2, 21)
    logits[0, 0] = logits[1, :2] = NEVER
    found = USUAL.check(grid_of_rois(2), sizes_of(1), logits, torch.zeros(2, 84))
    assert found.labels[0, :19].tolist() == list(range(2, 21))
    assert found.num_detections.tolist() == [19]


@pytest.mark.slow
@EACH_SCHEDULE
@pytest.mark.parametrize("count", [64, 1100])
def test_a_chain_in_which_every_decision_depends_on_the_one_before(schedule, count):
    """Box i overlaps only i - 1 and i + 1, scores fall along the chain: of 1, 2, 3 and so on every second one is kept.

    The first box is apart, so that the last one of each 256 is kept and decides the next.
    """
    left = 3.0 * torch.arange(count)
    left[0] = -90.0
    rois = torch.stack([left, left * 0, left + 10, left * 0 + 1], dim=1)[None] + torch.tensor([90.0, 0.0, 90.0, 0.0])
    logits = scores_of_one_class(torch.linspace(0.9, 0.1, count))
    sizes = torch.tensor([[8, 5000]], dtype=torch.int32)
    found = MOST.check(rois, sizes, logits, torch.zeros(count, 8), schedule=schedule)
    assert found.num_detections.tolist() == [count // 2 + 1]
    assert torch.equal(found.boxes[0, : count // 2 + 1], torch.cat([rois[0, :1], rois[0, 1::2]]))


ANY_SIZE: dict[str, Any] = {"most": MAX_DETECTIONS, "min_size": 0.0, "max_log_scale": math.log(1000 / 16)}


@pytest.mark.slow
def test_detections_of_any_size():
    """No box is suppressed or too small; sides of up to 500 px have an error of exp."""
    form = Form(iou=1.0, **ANY_SIZE)
    rng = np.random.default_rng(3)
    predictions = box_predictions(rng, 2 * 40, 9, score_threshold=form.score, exact=False)
    inputs = (present_rois(rng, 2, 40, CANVAS), image_sizes(rng, 2, CANVAS), *predictions)
    found = form.check(*inputs, tolerance_px=1e-4)
    assert (found.num_detections > 60).all()


@pytest.mark.slow
def test_a_roi_without_width_is_present():
    rois = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [5.0, 5.0, 4.0, 9.0]]])
    found = Form(iou=1.0, **ANY_SIZE).check(rois, sizes_of(1), torch.zeros(2, 2), torch.zeros(2, 8))
    assert found.boxes[0, : int(found.num_detections)].tolist() == rois[0, :1].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_suppression_is_torchvisions_on_the_boxes_and_scores_of_the_kernels(seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 1, (500, 4)).astype(np.float32))
    deltas = torch.from_numpy(rng.normal(0, 1, (500, 16)).astype(np.float32))
    inputs = (present_rois(rng, 1, 500, CANVAS), image_sizes(rng, 1, CANVAS), logits, deltas)
    every, found = (Form(iou=iou, **ANY_SIZE).run(*inputs) for iou in (1.0, 0.5))
    count = int(every.num_detections)
    kept = []
    for label in (1, 2, 3):
        of_class = torch.nonzero(every.labels[0, :count] == label)[:, 0]
        kept.append(of_class[nms(every.boxes[0, of_class], every.scores[0, of_class], 0.5)])
    rows = torch.cat(kept).sort().values
    assert 900 < count == every.labels.count_nonzero()
    assert 60 < len(rows) == int(found.num_detections)
    assert all(torch.equal(a[0, : len(rows)], b[0, rows]) for a, b in zip(found[1:], every[1:], strict=True))


@pytest.mark.slow
def test_every_schedule_gives_the_same_bits():
    rng = np.random.default_rng(12)
    logits = torch.from_numpy(rng.normal(0, 3, (2 * 300, 21)).astype(np.float32))
    deltas = torch.from_numpy(rng.normal(0, 1, (2 * 300, 84)).astype(np.float32))
    inputs = (present_rois(rng, 2, 300, CANVAS), image_sizes(rng, 2, CANVAS), logits, deltas)
    runs = [USUAL.run(*inputs, schedule=schedule) for schedule in ("forward", "forward", "reverse", "shuffled")]
    assert all(torch.equal(a, b) for one, two in itertools.pairwise(runs) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("images", "per_image"), [(0, 5), (2, 0)])
def test_no_rois_give_no_detections(images, per_image):
    rows = images * per_image
    found = USUAL.run(torch.zeros(images, per_image, 4), sizes_of(images), torch.zeros(rows, 3), torch.zeros(rows, 12))
    assert found.boxes.shape == (images, 100, 4)
    assert not any(tensor.any() for tensor in found)


def test_the_operator_is_three_launches_with_scratch_between():
    driver = HostDriver()
    launches = operator_on_host(kernels(**USUAL.attributes), driver).kernels
    detect = LoadedOperator("BoxDetections", launches)
    rng = np.random.default_rng(1)
    inputs = (
        present_rois(rng, 2, 50, CANVAS),
        sizes_of(2),
        *box_predictions(rng, 100, 7, score_threshold=0.05),
    )
    shapes = [tuple(tensor.shape) for tensor in inputs]
    outputs = [
        torch.empty(shape, dtype=torch.float32 if name in ("boxes", "scores") else torch.int32)
        for name, shape in zip(PaddedDetections._fields, detect.output_shapes(*shapes), strict=True)
    ]
    scratch = torch.empty(detect.scratch_bytes(*shapes), dtype=torch.uint8)
    detect(*map(HostArray, inputs), out=list(map(HostArray, outputs)), scratch=HostArray(scratch), stream=3)
    assert [entry for entry, _, _ in driver.launches] == [
        "box_detections_candidates",
        "box_detections_suppress",
        "box_detections_select",
    ]
    assert all(torch.equal(a, b) for a, b in zip(outputs, USUAL.run(*inputs), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"element": "float64"}, "element must be one of float32, float16, bfloat16, got 'float64'"),
        ({"box_weights": (1.0, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
        ({"box_weights": (1.0, 0.0, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
        ({"box_weights": (1.0, 1e-60, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
        ({"box_weights": (1.0, NAN, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
        ({"box_weights": (1.0, INF, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
        ({"max_log_scale": INF}, r"max_log_scale must be from -3.4\S* to 3.4\S*, got inf"),
        ({"max_log_scale": NAN}, "max_log_scale must be from"),
        ({"score_threshold": 1.5}, r"score_threshold must be from -3.4\S* to 1, got 1.5"),
        ({"score_threshold": NAN}, "score_threshold must be from"),
        ({"iou_threshold": -0.1}, "iou_threshold must be from 0 to 1, got -0.1"),
        ({"iou_threshold": NAN}, "iou_threshold must be from 0 to 1, got nan"),
        ({"min_size": -1.0}, "min_size must be from 0"),
        ({"min_size": 1e39}, "min_size must be from 0"),
        ({"max_detections": 0}, "max_detections must be from 1 to 4096, got 0"),
        ({"max_detections": 4097}, "max_detections must be from 1 to 4096, got 4097"),
    ],
    ids=repr,
)
def test_attributes_that_no_kernel_has_are_refused(change, message):
    with pytest.raises(KernelError, match=message):
        kernels(**USUAL.attributes | change)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 4097, 4), (4097, 3)], "holds at most R = 4096, got 4097"),
        ([(1, 10, 4), (10, 1)], "takes at least C = 2, got 1"),
        ([(1, 10, 4), (10, 41945)], "holds at most C = 41944, got 41945"),
        ([(2, 10, 4), (10, 3)], r"N\*R of class_logits must be 20, got 10"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    candidates = kernels(**USUAL.attributes)[0]
    with pytest.raises(KernelError, match=message):
        candidates.bind(candidates.sizes(shapes))


def test_deltas_of_other_classes_are_refused():
    suppress = kernels(**USUAL.attributes)[1]
    shapes = [(2, 10, 4), (2, 2), (20, 3), (20, 8), (20, 2), (2, 2, 1)]
    with pytest.raises(KernelError, match=r"4\*C of box_deltas must be 12, got 8"):
        suppress.sizes(shapes)
