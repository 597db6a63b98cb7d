"""MultiscaleRoIPool: reference against torchvision, function body in bare ONNX Runtime against the reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import STRIDES, is_present, make_rois, operator_session, run_operator, thresholds_of
from torch import Tensor
from torchvision.ops import RoIPool, roi_pool

from frcnn.plugins import multiscale_roi_pool
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as reference

CANVAS = (256, 320)

# levels, grid, features in half precision; one level has stride 16, as VGG16 and ResNet C4 have
FORMS = [(1, (7, 7), False), (1, (14, 3), True), (2, (5, 6), False), (3, (7, 7), True), (4, (1, 2), False)]


def strides(levels: int) -> tuple[int, ...]:
    return (16,) if levels == 1 else STRIDES[:levels]


def attributes(levels: int, grid: tuple[int, int]) -> dict[str, Any]:
    return {
        "output_height": grid[0],
        "output_width": grid[1],
        "spatial_scales": [1 / stride for stride in strides(levels)],
        "level_thresholds": list(thresholds_of(levels)),
    }


@cache
def session(levels: int, grid: tuple[int, int], half: bool):
    return operator_session(
        multiscale_roi_pool.SPEC,
        multiscale_roi_pool.function(levels=levels, output_size=grid),
        levels=levels,
        features=onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT,
        attributes=attributes(levels, grid),
    )


def feature_maps(images: int, channels: int, levels: int, *, seed: int, half: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(CANVAS[0] // stride, CANVAS[1] // stride) for stride in strides(levels)]
    maps = [torch.randn(images, channels, *size, generator=generator) for size in sizes]
    return [m.half() if half else m for m in maps]


@pytest.mark.parametrize("form", FORMS, ids=str)
@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3))
def test_function_is_the_reference(form, seed, images, per_image, channels):
    levels, grid, half = form
    rois = make_rois(images, per_image, thresholds_of(levels), seed=seed)
    features = feature_maps(images, channels, levels, seed=seed, half=half)
    expected = reference(rois, features, **attributes(levels, grid))
    found = run_operator(session(*form), rois, *features)
    assert found.dtype == expected.dtype == (torch.float16 if half else torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 0), (2, 0)])
@pytest.mark.parametrize("form", [FORMS[0], FORMS[2]], ids=str)
def test_no_rois_give_an_empty_tensor(form, shape):
    features = feature_maps(shape[0], 2, form[0], seed=0)
    found = run_operator(session(*form), torch.zeros(*shape, 4), *features)
    assert found.shape == (0, 2, *form[1])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_absent_rois_give_zero_and_others_do_not(form):
    levels, grid, half = form
    nan, inf = float("nan"), float("inf")
    absent = [[0, 0, -1, -1], [9, 9, 8, 20], [9, 9, 20, 8], [nan, 0, 9, 9], [0, 0, inf, 9], [-3e38, 0, 3e38, 9]]
    rois = torch.tensor([[*absent, [10, 10, 60, 60]]] * 2)
    features = [m.abs() + 1 for m in feature_maps(2, 2, levels, seed=1, half=half)]
    for pooled in (
        run_operator(session(*form), rois, *features),
        reference(rois, features, **attributes(levels, grid)),
    ):
        by_roi = pooled.reshape(2, len(absent) + 1, -1)
        assert (by_roi[:, :-1] == 0).all()
        assert (by_roi[:, -1] >= 1).all()


def test_an_image_is_pooled_from_its_own_maps():
    features = [torch.arange(1.0, 4.0)[:, None, None, None].expand(3, 2, 16, 20)]
    rois = torch.tensor([[10.0, 10.0, 100.0, 100.0], [5.0, 5.0, 30.0, 40.0]]).expand(3, 2, 4)
    found = run_operator(session(*FORMS[0]), rois, *features)
    assert torch.equal(found[:, 0, 3, 3], torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]))


@pytest.mark.parametrize("levels", [1, 3])
@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_reference_is_torchvisions_roi_pool_of_the_level(levels, seed):
    images, per_image, grid = 2, 30, (7, 5)
    thresholds = thresholds_of(levels)
    rois = make_rois(images, per_image, thresholds, seed=seed)
    features = feature_maps(images, 2, levels, seed=seed)
    found = reference(rois, features, **attributes(levels, grid)).reshape(images, per_image, 2, *grid)
    for image in range(images):
        for number in range(per_image):
            x1, y1, x2, y2 = rois[image, number]
            if not is_present(rois[image, number]):
                expected = torch.zeros(2, *grid)
            else:
                side = ((x2 - x1) * (y2 - y1)).sqrt()
                level = sum(bool(side >= torch.tensor(threshold)) for threshold in thresholds)
                box = [rois[image, number][None]]
                expected = roi_pool(features[level][image][None], box, grid, 1 / strides(levels)[level])[0]
            assert torch.equal(found[image, number], expected)


def test_reference_of_one_level_is_the_papers_module():
    rois = torch.tensor([[[3.0, 5.0, 100.0, 90.0], [40.0, 8.0, 41.0, 300.0]]])
    (feature,) = features = feature_maps(1, 3, 1, seed=4)
    expected = RoIPool((7, 7), 1 / 16)(feature, [rois[0]])
    assert torch.equal(reference(rois, features, **attributes(1, (7, 7))), expected)
