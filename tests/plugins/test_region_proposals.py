"""The kernels of RegionProposals against its reference: the same decisions, the same boxes where arithmetic is exact.

Anchors are whole numbers, shifts multiples of 1/4 and log scales 0, unless a test says otherwise, so that boxes are
exact. Logits lie on a grid of 1/256 between -8 and 8, so that two machines' sigmoids agree on the order of scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maintenance.kernel_resources import resource_usage
from support.simt import SCHEDULES, require_compiler, run_on_host
from torch import Tensor

from frcnn.errors import KernelError
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import kernels_for, wiring_of
from frcnn.plugins.region_proposals import SPEC
from frcnn.plugins.region_proposals.kernel import CHUNK, MAX_CANDIDATES, MAX_LEVELS, kernels
from frcnn.plugins.region_proposals.reference import ABSENT_ROI, region_proposals

NAN, INF = math.nan, math.inf
CANVAS = (96, 128)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


@dataclass(frozen=True, kw_only=True)
class Form:
    """Attributes that kernels are compiled for. Few forms serve all tests, as a compilation takes a second."""

    per_cell: tuple[int, ...] = (3, 2)
    strides: tuple[float, ...] = (0.0,)
    top: int = 48
    proposals: int = 64
    element: str = "float32"
    iou_threshold: float = 0.7
    score_threshold: float = -1.0
    min_size: float = 1.0

    @property
    def attributes(self) -> dict[str, Any]:
        rows: list[float] = []
        for level, anchors in enumerate(self.per_cell):
            for anchor in range(anchors):
                width, height = 8 * (1 + level + anchor), 8 * (2 + level - anchor % 2)
                rows += [level, -width, -height, width, height]
        return {
            "anchors": rows,
            "strides": self.strides,
            "box_weights": (1.0, 1.0, 1.0, 1.0),
            "max_log_scale": math.log(1000 / 16),
            "pre_nms_top_n": self.top,
            "post_nms_top_n": self.proposals,
            "iou_threshold": self.iou_threshold,
            "score_threshold": self.score_threshold,
            "min_size": self.min_size,
        }

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.element]


USUAL = Form()


@cache
def kernels_of(form: Form) -> tuple[Kernel, ...]:
    return kernels(element=form.element, **form.attributes)


@dataclass(frozen=True)
class Case:
    image_sizes: Tensor
    images: Tensor
    objectness: list[Tensor]
    deltas: list[Tensor]


def case_of(form: Form, *sizes: tuple[int, int], images: int = 1, seed: int = 0) -> Case:
    """Random logits and shifts for maps of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    objectness, deltas = [], []
    for anchors, (height, width) in zip(form.per_cell, sizes, strict=True):
        logits = torch.randint(-2048, 2049, (images, anchors, height, width), generator=generator) / 256
        shifts = torch.randint(-4, 5, (images, anchors, 4, height, width), generator=generator) / 4
        shifts[:, :, 2:] = 0
        objectness.append(logits.to(form.dtype))
        deltas.append(shifts.flatten(1, 2).to(form.dtype))
    image_sizes = torch.tensor([[CANVAS[0] - 7 * i, CANVAS[1] - 3 * i] for i in range(images)], dtype=torch.int32)
    return Case(image_sizes, torch.zeros(images, 3, *CANVAS, dtype=form.dtype), objectness, deltas)


def in_kernels(form: Form, case: Case, schedule: str = "forward") -> Tensor:
    inputs = {"image_sizes": case.image_sizes, "images": case.images}
    inputs |= {f"objectness_{i}": logits for i, logits in enumerate(case.objectness)}
    inputs |= {f"deltas_{i}": deltas for i, deltas in enumerate(case.deltas)}
    return run_on_host(kernels_of(form), inputs, schedule=schedule)["rois"]


def in_reference(form: Form, case: Case) -> Tensor:
    return region_proposals(case.image_sizes, case.images, case.objectness, case.deltas, **form.attributes)


def assert_is_the_reference(form: Form, case: Case, schedule: str = "forward") -> Tensor:
    found = in_kernels(form, case, schedule)
    assert torch.equal(found, in_reference(form, case))
    return found


def count_of(rois: Tensor) -> list[int]:
    """Proposals of each image."""
    return (rois[..., 2] >= rois[..., 0]).sum(1).tolist()


def test_the_operator_has_the_inputs_and_outputs_of_its_spec():
    wiring = wiring_of(SPEC.name, kernels_of(USUAL))
    assert tuple(tensor.name for tensor in wiring.inputs) == SPEC.input_names(2)
    assert [(tensor.name, tensor.shape) for tensor in wiring.outputs] == [("rois", ("N", "64", "4"))]
    assert not wiring.free


SIZES = ((12, 16), (6, 8), (3, 4), (2, 2), (1, 2), (1, 1))
FORMS = [
    (Form(element="float16"), SIZES[:2]),
    (Form(element="bfloat16", strides=(7.0, 0.0)), SIZES[:2]),
    (Form(per_cell=(3,), top=1000, proposals=1000), [(24, 32)]),
    (Form(per_cell=(3,) * 6, top=100, proposals=1000, element="float16"), SIZES),
    (Form(per_cell=(1, 2, 3, 4), top=130, proposals=40, element="bfloat16"), SIZES[:4]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "sizes"), FORMS, ids=str)
def test_levels_types_and_numbers_of_anchors(form, sizes):
    assert_is_the_reference(form, case_of(form, *sizes, images=2))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_order_of_threads_gives_the_same_bits(schedule):
    case = case_of(USUAL, *SIZES[:2], images=3, seed=1)
    found = assert_is_the_reference(USUAL, case, schedule)
    again = in_kernels(USUAL, case)
    assert torch.equal(found.view(torch.int32), again.view(torch.int32))
    assert count_of(found) == [64, 64, 64]


@pytest.mark.slow
def test_sixteen_images():
    case = case_of(USUAL, (3, 4), (2, 2), images=16)
    assert len(set(count_of(assert_is_the_reference(USUAL, case)))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("logit", [0.0, -0.0, -3.5, INF])
def test_of_equal_logits_the_lowest_indices_are_chosen(logit):
    """The first rows of the map, all anchors of a cell together, though memory has anchor by anchor."""
    case = case_of(USUAL, (12, 16), (1, 1))
    case.objectness[0][:] = logit
    case.deltas[0][:] = 0
    form = Form(iou_threshold=1.0)
    found = assert_is_the_reference(form, case)
    # with anchors of +-8 x +-16, +-16 x +-8 and +-24 x +-16: those of the cell (0, 0), and two of (0, 1), clipped
    expected = [[0, 0, 8, 16], [0, 0, 16, 8], [0, 0, 24, 16], [0, 0, 16, 16], [0, 0, 24, 8]]
    assert [box for box in found[0].tolist() if box in expected][:5] == expected


@pytest.mark.slow
@pytest.mark.parametrize("element", DTYPES)
def test_ties_at_the_last_place_and_over_the_border_of_a_chunk(element):
    """Logits of two neighbouring values: of the better one fewer than are chosen, of the other far more."""
    form = Form(per_cell=(1, 1), element=element)
    width = 8
    case = case_of(form, (2 * CHUNK // width + 5, width), (1, 1))
    logits = case.objectness[0].view(-1)
    logits[:] = 0.5
    better = torch.arange(CHUNK - 20, CHUNK + 20)  # of both chunks
    logits[better] = 0.5 + torch.finfo(form.dtype).eps / 2  # the next number
    logits[:3] = -INF
    found = assert_is_the_reference(form, case)
    assert count_of(found)[0] > 1


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("values", "spread"), [(8, 1), (4096, 256), (40, 2)])
def test_many_chunks(values, spread, schedule):
    """The best of 60,000 logits, with and without ties."""
    form = Form(per_cell=(3,), top=1000, proposals=1000)
    case = case_of(form, (125, 160), seed=values)
    generator = torch.Generator().manual_seed(values)
    case.objectness[0][:] = torch.randint(-values, values // 2, case.objectness[0].shape, generator=generator) / spread
    if spread == 256:
        case.objectness[0][:, 1, 60:64] += 4  # most of the best in one chunk
    assert_is_the_reference(form, case, schedule)


@pytest.mark.slow
@pytest.mark.parametrize(("top", "iou_threshold"), [(4096, 0.5), (6000, 0.9), (MAX_CANDIDATES, 0.5)])
def test_the_most_candidates(top, iou_threshold):
    form = Form(per_cell=(3,), top=top, proposals=2000, iou_threshold=iou_threshold)
    case = case_of(form, (60, 80), images=2)
    case.objectness[0][1] = 2.0
    assert_is_the_reference(form, case)


@pytest.mark.slow
def test_on_a_canvas_that_is_no_multiple_anchors_move_by_strides():
    """A canvas of 128 x 96 with maps of 10 x 8 cells: 128 // 10 is 12, the network's stride 13."""
    form = Form(strides=(13.0, 0.0), top=240)
    case = case_of(form, (8, 10), (5, 7))
    found = assert_is_the_reference(form, case)
    assert not torch.equal(found, in_reference(Form(top=240), case))


def test_a_node_without_strides_is_one_of_canvas_over_map():
    older = {name: value for name, value in USUAL.attributes.items() if name != "strides"}
    assert kernels_for(SPEC.name, older) == kernels_of(USUAL) == kernels(**USUAL.attributes | {"strides": (0.0, 0.0)})


@pytest.mark.slow
@pytest.mark.parametrize(("min_size", "sides"), [(0.0, [0, 2**-20, 16]), (1e-30, [2**-20, 16])])
def test_boxes_without_width_are_left_out_by_the_least_size_above_0(min_size, sides):
    form = Form(per_cell=(1, 1), min_size=min_size, iou_threshold=1.0)
    case = case_of(form, (1, 3), (1, 1))
    case.objectness[1][:] = NAN
    case.deltas[0][:] = 0
    case.deltas[0][0, 0, 0] = torch.tensor([-0.5 + 2**-24, -50 / 16, 0.0])  # right sides of 8, 50 and 92 px
    found = assert_is_the_reference(form, case)[0]
    assert sorted((found[:, 2] - found[:, 0])[found[:, 2] >= 0].tolist()) == sides


@pytest.mark.slow
def test_fewer_logits_than_candidates():
    form = Form(per_cell=(3,), top=1000, proposals=1000, iou_threshold=1.0)
    case = case_of(form, (12, 16))
    case.deltas[0][:] = 0  # no box leaves the image
    assert count_of(assert_is_the_reference(form, case)) == [576]


def test_levels_without_candidates_and_images_without_any():
    case = case_of(USUAL, *SIZES[:2], images=4)
    case.objectness[0][1] = -INF
    case.objectness[1][2] = NAN
    case.objectness[0][3] = NAN
    case.objectness[1][3] = -INF
    found = assert_is_the_reference(USUAL, case)
    assert count_of(found)[3] == 0
    assert (found[3] == torch.tensor(ABSENT_ROI)).all()
    assert min(count_of(found)[:3]) > 0


def test_a_box_that_is_small_or_no_number_is_absent_and_suppresses_none():
    case = case_of(USUAL, (6, 8), (1, 1))
    case.objectness[1][:] = NAN
    logits = case.objectness[0].view(-1)
    logits[:] = torch.arange(len(logits)).flip(0) / 256
    deltas = case.deltas[0].unflatten(1, (3, 4))
    deltas[:] = 0
    deltas[0, 0, :, 0, 0] = torch.tensor([NAN, 0, 0, 0])
    deltas[0, 0, :, 0, 1] = torch.tensor([0, 0, NAN, 0])
    deltas[0, 0, :, 0, 2] = torch.tensor([-INF, 0, 0, 0])  # clipped to a line
    deltas[0, 0, :, 0, 3] = torch.tensor([INF, INF, INF, INF])
    deltas[0, 0, :, 0, 4] = torch.tensor([0, 99, 0, 0])  # below the image
    found = assert_is_the_reference(USUAL, case)
    assert found.isfinite().all()


@pytest.mark.slow
def test_thresholds_of_score_and_size():
    form = Form(score_threshold=0.5, min_size=12.0)
    case = case_of(form, *SIZES[:2], images=2, seed=3)
    for logits in case.objectness:
        logits[:] -= 7
    case.objectness[0][:, 0, 0, 0] = 0.0  # a score of just 0.5
    found = assert_is_the_reference(form, case)
    sizes = (found[..., 2:] - found[..., :2])[found[..., 2] >= 0]
    assert sizes.min() >= 12
    assert 0 < min(count_of(found)) <= max(count_of(found)) < min(count_of(in_kernels(USUAL, case)))


def test_equal_scores_follow_by_level():
    """A sigmoid of 1 is that of many logits: levels decide, not the logits that are gone."""
    case = case_of(USUAL, (1, 1), (1, 1))
    for level in range(2):
        case.deltas[level][:] = 0
        case.objectness[level][:] = -INF
    case.objectness[0][0, 0] = 30.0
    case.objectness[1][0, 0] = 60.0
    case.objectness[1][0, 1] = 1.0
    found = assert_is_the_reference(USUAL, case)
    assert found[0, :4].tolist() == [[0, 0, 8, 16], [0, 0, 16, 24], [0, 0, 24, 16], list(ABSENT_ROI)]


SPECIAL = st.sampled_from([NAN, -INF, INF, -0.0, 0.0, 1.0, 1.25, -7.5, 30.0, 3e38])
SHIFTS = st.sampled_from([0.0, 0.5, -0.25, 2.0, -40.0, NAN, INF, -INF])


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(SCHEDULES)))
def test_special_values(data, schedule):
    case = case_of(USUAL, (2, 2), (1, 2))
    for level in range(2):
        logits, deltas = case.objectness[level], case.deltas[level].unflatten(1, (-1, 4))[:, :, :2]
        drawn = data.draw(st.lists(SPECIAL, min_size=logits.numel(), max_size=logits.numel()))
        logits[:] = torch.tensor(drawn).view_as(logits)
        drawn = data.draw(st.lists(SHIFTS, min_size=deltas.numel(), max_size=deltas.numel()))
        deltas[:] = torch.tensor(drawn).view_as(deltas)
    assert_is_the_reference(USUAL, case, schedule)


@pytest.mark.slow
def test_boxes_of_any_scale_within_a_few_roundings_of_exp():
    form = Form(iou_threshold=1.0)  # nothing is suppressed, so that roundings decide nothing
    case = case_of(form, *SIZES[:2], images=2)
    generator = torch.Generator().manual_seed(7)
    for deltas in case.deltas:
        deltas[:] = torch.randn(deltas.shape, generator=generator)
        deltas[:, 2:4, 0] = 9.0  # over the limit
    found, expected = in_kernels(form, case), in_reference(form, case)
    # exp differs by two units in the last place, of a half side of at most 62.5 x 16 pixels
    assert (found - expected).abs().max() <= 2 * 2**-23 * 62.5 * 16
    assert count_of(found) == count_of(expected)


def iou_pairs(threshold: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of boxes whose IoU is within a few roundings of a threshold, far from all others."""
    generator = torch.Generator().manual_seed(seed)
    count = 24
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 90 + 1
    corners = torch.stack([200.0 * torch.arange(count), torch.rand(count, generator=generator)], dim=1)
    first = torch.cat([corners, corners + sides], dim=1).float()
    # moved along x by d, a box overlaps its copy by (w - d) / (w + d)
    shift = sides[:, 0] * (1 - threshold) / (1 + threshold)
    second = (first + torch.stack([shift, shift * 0, shift, shift * 0], dim=1)).float()
    steps = torch.randint(-3, 4, (count,), generator=generator)
    second[:, 2] = (second[:, 2].view(torch.int32) + steps.int()).view(torch.float32)
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
def test_overlaps_within_a_last_bit_of_the_threshold(threshold):
    """A product instead of torchvision's division errs here, unless it is exact."""
    form = Form(iou_threshold=threshold)
    overlaps = kernels_of(form)[2]
    for seed in range(20):
        first, second = iou_pairs(threshold, seed)
        boxes = torch.cat([first, second])[None, None].repeat(1, 2, 1, 1)
        boxes[0, 1, :24] *= 1e-20  # areas that are no normal numbers
        boxes[0, 1, 24:] *= 1e-20
        words = run_on_host([overlaps], {"candidate_boxes": boxes})["overlaps"]
        for level in range(2):
            assert suppressed_by_first(words[0, level]) == torchvision_overlaps(boxes[0, level], threshold)


def suppressed_by_first(words: Tensor) -> list[bool]:
    """Whether box i of 48 overlaps box 24 + i, off the words: tile 0 with 64 rows, then tile 1 with 32."""

    def bit(earlier: int, later: int) -> bool:
        word = words[later] if earlier < 32 else words[64 + later - 32]
        return bool(int(word) >> earlier % 32 & 1)

    return [bit(i, 24 + i) for i in range(24)]


def torchvision_overlaps(boxes: Tensor, threshold: float) -> list[bool]:
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides[:, 0] * sides[:, 1]
    low, high = torch.maximum(boxes[:24, :2], boxes[24:, :2]), torch.minimum(boxes[:24, 2:], boxes[24:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    iou: Tensor = inter / (area[:24] + area[24:] - inter)
    return (iou > torch.tensor(threshold, dtype=torch.float32)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("top", [40, 1000, 2500])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_chain_in_which_every_decision_depends_on_the_one_before(top, schedule):
    """Box i overlaps only i - 1 and i + 1, so every second one is kept."""
    _, _, overlaps, resolve, _ = kernels_of(Form(per_cell=(1,), top=top, proposals=top, iou_threshold=0.3))
    left = 4.0 * torch.arange(top)
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 1], dim=1)[None, None]
    scores = torch.linspace(0.9, 0.1, top)[None, None]
    inputs = {"candidate_boxes": boxes, "candidate_scores": scores}
    kept = run_on_host([overlaps, resolve], inputs, schedule=schedule)
    count = -(-top // 2)
    assert kept["kept_counts"].tolist() == [[count]]
    assert torch.equal(kept["kept_scores"][0, 0, :count], scores[0, 0, ::2])
    assert torch.equal(kept["kept_boxes"][0, 0, :count], boxes[0, 0, ::2])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
@pytest.mark.parametrize(("levels", "top"), [(5, 1000), (8, 4096)])
def test_nothing_is_spilled_and_shared_memory_is_static(levels, top, architecture):
    form = Form(per_cell=(3,) * levels, top=top, proposals=1000, element="float16")
    for kernel in kernels_of(form):
        used = resource_usage(kernel, architecture)
        assert (used.spill_bytes, used.stack_bytes) == (0, 0), kernel.entry
        assert used.shared_bytes <= 48 * 1024
        assert used.registers * kernel.block[0] <= 64 * 1024


def anchors_of(levels: Sequence[float]) -> dict[str, list[float]]:
    return {"anchors": [value for level in levels for value in (level, 0.0, 0.0, 8.0, 8.0)]}


REFUSED = [
    ({"element": "float64"}, "element must be one of float32, float16, bfloat16, got 'float64'"),
    ({"anchors": []}, "anchors must be 1 to 1024 rows of level, x1, y1, x2, y2, got 0 numbers"),
    ({"anchors": [0.0, 1.0, 2.0, 3.0]}, "got 4 numbers"),
    (anchors_of([0] * 1025), "got 5125 numbers"),
    ({"anchors": [0.0, 0.0, 0.0, NAN, 8.0]}, "anchors must be finite numbers"),
    (anchors_of([1]), r"must rise from 0 without a gap, 8 at most, got \[1.0\]"),
    (anchors_of([0, 2]), r"got \[0.0, 2.0\]"),
    (anchors_of([1, 0]), r"got \[1.0, 0.0\]"),
    (anchors_of([0, 0.5, 1]), r"got \[0.0, 0.5, 1.0\]"),
    (anchors_of(range(MAX_LEVELS + 1)), "8 at most"),
    ({"strides": (8.0, 16.0, 32.0)}, r"strides must be whole numbers from 0 to 1024, 1 or 2 of them, got \(8.0, 16.0"),
    ({"strides": (8.5,)}, "strides must be whole numbers"),
    ({"strides": (8.0, NAN)}, "strides must be whole numbers"),
    ({"strides": (-8.0,)}, "strides must be whole numbers"),
    ({"box_weights": (1.0, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
    ({"box_weights": (1.0, 0.0, 1.0, 1.0)}, "box_weights must be 4 numbers other than 0"),
    ({"box_weights": (1.0, 1.0, NAN, 1.0)}, "box_weights must be 4 numbers other than 0"),
    ({"max_log_scale": INF}, "max_log_scale must be from"),
    ({"pre_nms_top_n": 0}, "pre_nms_top_n must be from 1 to 6144, got 0"),
    ({"pre_nms_top_n": 6145}, "pre_nms_top_n must be from 1 to 6144, got 6145"),
    ({"post_nms_top_n": 0}, "post_nms_top_n must be from 1 to"),
    ({"iou_threshold": 1.5}, "iou_threshold must be from 0 to 1, got 1.5"),
    ({"iou_threshold": -0.1}, "iou_threshold must be from 0 to 1, got -0.1"),
    ({"iou_threshold": NAN}, "iou_threshold must be from 0 to 1, got nan"),
    ({"score_threshold": 1.5}, "score_threshold must be from"),
    ({"score_threshold": NAN}, "score_threshold must be from"),
    ({"min_size": -1.0}, "min_size must be from 0"),
    ({"min_size": INF}, "min_size must be from 0"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=str)
def test_attributes_that_no_kernel_has_are_refused(change, message):
    with pytest.raises(KernelError, match=message):
        kernels(**USUAL.attributes | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objectness_0": (1, 4, 12, 16)}, "3 of objectness_0 must be 3, got 4"),
        ({"objectness_1": (2, 2, 6, 8)}, "N of objectness_1 must be 1, got 2"),
        ({"objectness_0": (1, 3, 192)}, r"objectness_0 must have the shape \(N, 3, H_0, W_0\)"),
        ({"deltas_0": (1, 11, 12, 16)}, "12 of deltas_0 must be 12, got 11"),
    ],
)
def test_maps_of_a_wrong_shape_are_refused(change, message):
    shapes = {"image_sizes": (1, 2), "images": (1, 3, *CANVAS), "objectness_0": (1, 3, 12, 16)}
    shapes |= {"objectness_1": (1, 2, 6, 8), "deltas_0": (1, 12, 12, 16), "deltas_1": (1, 8, 6, 8)}
    wiring = wiring_of(SPEC.name, kernels_of(USUAL))
    assert wiring.plan(list(shapes.values()), {}).output_shapes == ((1, 64, 4),)
    with pytest.raises(KernelError, match=message):
        wiring.plan(list((shapes | change).values()), {})
