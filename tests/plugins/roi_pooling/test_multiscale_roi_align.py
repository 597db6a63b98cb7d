"""MultiscaleRoIAlign: reference against torchvision, function body in bare ONNX Runtime against the reference."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import STRIDES, is_present, make_rois, operator_session, run_operator, thresholds_of
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from frcnn.plugins import multiscale_roi_align
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as reference
from frcnn.plugins.roi_pooling.level_boundaries import NEVER

CANVAS = (256, 320)

# levels, aligned, sampling ratio, grid, features in half precision
FORMS = [
    (1, 0, 2, (7, 7), False),
    (1, 1, 0, (3, 5), False),
    (2, 0, 0, (7, 7), True),
    (3, 1, 2, (5, 6), False),
    (4, 0, 2, (7, 7), False),
    (4, 0, 0, (1, 3), True),
    (5, 0, 2, (2, 2), False),
]


def attributes(levels: int, aligned: int, sampling: int, grid: tuple[int, int]) -> dict[str, Any]:
    return {
        "output_height": grid[0],
        "output_width": grid[1],
        "spatial_scales": [1 / stride for stride in STRIDES[:levels]],
        "level_thresholds": list(thresholds_of(levels)),
        "sampling_ratio": sampling,
        "aligned": aligned,
    }


@cache
def session(levels: int, aligned: int, sampling: int, grid: tuple[int, int], half: bool):
    return operator_session(
        multiscale_roi_align.SPEC,
        multiscale_roi_align.function(levels=levels, aligned=bool(aligned)),
        levels=levels,
        features=onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT,
        attributes=attributes(levels, aligned, sampling, grid),
    )


def feature_maps(images: int, channels: int, levels: int, *, seed: int, half: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in STRIDES[:levels]]
    maps = [torch.randn(images, channels, *size, generator=generator) for size in sizes]
    return [m.half() if half else m for m in maps]


@pytest.mark.parametrize("form", FORMS, ids=str)
@settings(max_examples=12)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3))
def test_function_is_the_reference(form, seed, images, per_image, channels):
    levels, aligned, sampling, grid, half = form
    rois = make_rois(images, per_image, thresholds_of(levels), seed=seed)
    features = feature_maps(images, channels, levels, seed=seed, half=half)
    expected = reference(rois, features, **attributes(levels, aligned, sampling, grid))
    found = run_operator(session(*form), rois, *features)
    assert found.dtype == expected.dtype == (torch.float16 if half else torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[4]], ids=str)
@pytest.mark.parametrize("shape", [(1, 0), (2, 0)])
def test_no_rois_give_an_empty_tensor(form, shape):
    features = feature_maps(shape[0], 2, form[0], seed=0)
    found = run_operator(session(*form), torch.zeros(*shape, 4), *features)
    assert found.shape == (0, 2, *form[3])
    assert reference(torch.zeros(*shape, 4), features, **attributes(*form[:4])).shape == found.shape


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_absent_rois_give_zero_and_others_do_not(form):
    levels, aligned, sampling, grid, half = form
    nan, inf = float("nan"), float("inf")
    absent = [[0, 0, -1, -1], [9, 9, 8, 20], [9, 9, 20, 8], [nan, 0, 9, 9], [500, 500, 100, 100]]
    absent += [[0, 0, inf, 9], [-inf, 0, 9, 9], [-3e38, 0, 3e38, 9]]
    rois = torch.tensor([[*absent, [10, 10, 60, 60]]] * 2)
    features = [m.abs() + 1 for m in feature_maps(2, 2, levels, seed=1, half=half)]
    for pooled in (
        run_operator(session(*form), rois, *features),
        reference(rois, features, **attributes(levels, aligned, sampling, grid)),
    ):
        by_roi = pooled.reshape(2, len(absent) + 1, -1)
        assert (by_roi[:, :-1] == 0).all()
        assert (by_roi[:, -1] >= 1).all()


def test_an_image_is_pooled_from_its_own_maps():
    features = [
        torch.arange(3.0)[:, None, None, None].expand(3, 2, *m.shape[2:]) for m in feature_maps(1, 1, 4, seed=0)
    ]
    rois = torch.tensor([[10.0, 10.0, 100.0, 100.0], [5.0, 5.0, 30.0, 40.0]]).expand(3, 2, 4)
    found = run_operator(session(*FORMS[4]), rois, *features)
    assert torch.equal(found, torch.arange(3.0).repeat_interleave(2)[:, None, None, None].expand(6, 2, 7, 7))


def test_a_level_begins_exactly_at_its_threshold():
    features = [torch.full((1, 1, *m.shape[2:]), float(level)) for level, m in enumerate(feature_maps(1, 1, 4, seed=0))]
    thresholds = thresholds_of(4)
    sides = torch.tensor(thresholds)
    sides = torch.stack([torch.nextafter(sides, sides * 0), sides, torch.nextafter(sides, sides * 2)], dim=1).flatten()
    rois = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)[None]
    expected = [0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert run_operator(session(*FORMS[4]), rois, *features)[:, 0, 0, 0].tolist() == expected
    assert reference(rois, features, **attributes(*FORMS[4][:4]))[:, 0, 0, 0].tolist() == expected


def test_a_level_that_is_never_reached_is_never_pooled():
    features = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)]
    given_attributes = attributes(2, 0, 2, (7, 7)) | {"spatial_scales": [1 / 32, 1 / 32], "level_thresholds": [NEVER]}
    rois = torch.tensor([[[0.0, 0.0, 1e6, 1e6], [0.0, 0.0, 9.0, 9.0]]])
    never = operator_session(
        multiscale_roi_align.SPEC,
        multiscale_roi_align.function(levels=2, aligned=False),
        levels=2,
        attributes=given_attributes,
    )
    assert (run_operator(never, rois, *features) == 0).all()
    assert (reference(rois, features, **given_attributes) == 0).all()


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize(("sampling", "given_sampling"), [(2, 2), (0, 0), (-1, 0)])
@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_reference_is_torchvisions_pooler(levels, sampling, given_sampling, seed):
    images, per_image, grid = 2, 30, (7, 7)
    rois = make_rois(images, per_image, thresholds_of(levels), seed=seed)
    is_roi = is_present(rois)
    features = feature_maps(images, 2, levels, seed=seed)
    pooler = MultiScaleRoIAlign([str(i) for i in range(levels)], grid, sampling)
    maps = OrderedDict((str(i), m) for i, m in enumerate(features))
    expected = pooler(maps, [rois[i][is_roi[i]] for i in range(images)], [CANVAS] * images)
    assert pooler.scales == [1 / stride for stride in STRIDES[:levels]]

    found = reference(rois, features, **attributes(levels, 0, given_sampling, grid))
    assert torch.equal(found[is_roi.flatten()], expected)
    assert (found[~is_roi.flatten()] == 0).all()
