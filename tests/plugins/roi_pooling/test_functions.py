"""RoI pooling: references against torchvision, function bodies in bare ONNX Runtime against the references."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import (
    STRIDES,
    is_present,
    make_rois,
    operator_session,
    pooling_attributes,
    run_operator,
    thresholds_of,
)
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from frcnn.plugins import multiscale_roi_align, multiscale_roi_pool
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align as align_reference
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool as pool_reference
from frcnn.plugins.roi_pooling.level_boundaries import NEVER

CANVAS = (256, 320)


@dataclass(frozen=True, kw_only=True)
class Form:
    """An operator with some of its attributes, and the type of the maps: max pooling where sampling is None."""

    levels: int
    grid: tuple[int, int] = (7, 7)
    half: bool = False
    sampling: int | None = None
    aligned: int = 0

    @property
    def strides(self) -> tuple[int, ...]:
        """One level of max pooling has stride 16, as VGG16 and ResNet C4 have."""
        return (16,) if (self.levels, self.sampling) == (1, None) else STRIDES

    @property
    def attributes(self) -> dict[str, Any]:
        rest = {} if self.sampling is None else {"sampling_ratio": self.sampling, "aligned": self.aligned}
        return pooling_attributes(self.levels, self.grid, self.strides, **rest)

    def feature_maps(self, images: int, channels: int, *, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        sizes = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in self.strides[: self.levels]]
        maps = [torch.randn(images, channels, *size, generator=generator) for size in sizes]
        return [m.half() if self.half else m for m in maps]

    def in_onnxruntime(self, rois: Tensor, features: list[Tensor], **changed: Any) -> Tensor:
        return run_operator(session(self, **changed), rois, *features)

    def in_reference(self, rois: Tensor, features: list[Tensor], **changed: Any) -> Tensor:
        reference = pool_reference if self.sampling is None else align_reference
        return reference(rois, features, **self.attributes | changed)


Pool, Align = Form, partial(Form, sampling=2)


FORMS = [
    Align(levels=1),
    Align(levels=1, aligned=1, sampling=0, grid=(3, 5)),
    Align(levels=2, sampling=0, half=True),
    Align(levels=3, aligned=1, grid=(5, 6)),
    Align(levels=4),
    Align(levels=4, sampling=0, grid=(1, 3), half=True),
    Align(levels=5, grid=(2, 2)),
    Pool(levels=1),
    Pool(levels=1, grid=(14, 3), half=True),
    Pool(levels=2, grid=(5, 6)),
    Pool(levels=3, half=True),
    Pool(levels=4, grid=(1, 2)),
]
ALL_FORMS = pytest.mark.parametrize("form", FORMS, ids=repr)
FOUR_LEVELS = pytest.mark.parametrize("form", [Align(levels=4), Pool(levels=4, grid=(1, 2))], ids=repr)


@cache
def session(form: Form, **changed: Any) -> Any:
    if form.sampling is None:
        spec, body = multiscale_roi_pool.SPEC, multiscale_roi_pool.function(levels=form.levels, output_size=form.grid)
    else:
        spec = multiscale_roi_align.SPEC
        body = multiscale_roi_align.function(levels=form.levels, aligned=bool(form.aligned))
    features = onnx.TensorProto.FLOAT16 if form.half else onnx.TensorProto.FLOAT
    return operator_session(spec, body, levels=form.levels, features=features, attributes=form.attributes | changed)


@ALL_FORMS
@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3))
def test_function_is_the_reference(form, seed, images, per_image, channels):
    rois = make_rois(images, per_image, thresholds_of(form.levels), seed=seed)
    features = form.feature_maps(images, channels, seed=seed)
    found, expected = form.in_onnxruntime(rois, features), form.in_reference(rois, features)
    assert found.dtype == expected.dtype == (torch.float16 if form.half else torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[4], FORMS[7], FORMS[9]], ids=repr)
@pytest.mark.parametrize("shape", [(1, 0), (2, 0)])
def test_no_rois_give_an_empty_tensor(form, shape):
    rois, features = torch.zeros(*shape, 4), form.feature_maps(shape[0], 2)
    assert form.in_onnxruntime(rois, features).shape == (0, 2, *form.grid)
    assert form.in_reference(rois, features).shape == (0, 2, *form.grid)


@ALL_FORMS
def test_absent_rois_give_zero_and_others_do_not(form):
    nan, inf = float("nan"), float("inf")
    absent = [[0, 0, -1, -1], [9, 9, 8, 20], [9, 9, 20, 8], [nan, 0, 9, 9], [500, 500, 100, 100]]
    absent += [[0, 0, inf, 9], [-inf, 0, 9, 9], [-3e38, 0, 3e38, 9]]
    rois = torch.tensor([[*absent, [10, 10, 60, 60]]] * 2)
    features = [m.abs() + 1 for m in form.feature_maps(2, 2, seed=1)]
    for pooled in (form.in_onnxruntime(rois, features), form.in_reference(rois, features)):
        by_roi = pooled.reshape(2, len(absent) + 1, -1)
        assert (by_roi[:, :-1] == 0).all()
        assert (by_roi[:, -1] >= 1).all()


@FOUR_LEVELS
def test_a_level_begins_exactly_at_its_threshold(form):
    features = [torch.full((1, 1, *m.shape[2:]), float(level)) for level, m in enumerate(form.feature_maps(1, 1))]
    sides = torch.tensor(thresholds_of(4))
    sides = torch.stack([torch.nextafter(sides, sides * 0), sides, torch.nextafter(sides, sides * 2)], dim=1).flatten()
    rois = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)[None]
    for pooled in (form.in_onnxruntime(rois, features), form.in_reference(rois, features)):
        assert pooled[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("form", [Align(levels=2), Pool(levels=2)], ids=repr)
def test_a_level_that_is_never_reached_is_never_pooled(form):
    features = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)]
    rois = torch.tensor([[[0.0, 0.0, 1e6, 1e6], [0.0, 0.0, 9.0, 9.0]]])
    changed = {"spatial_scales": (1 / 32, 1 / 32), "level_thresholds": (NEVER,)}
    assert (form.in_onnxruntime(rois, features, **changed) == 0).all()
    assert (form.in_reference(rois, features, **changed) == 0).all()


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize(("sampling", "given_sampling"), [(2, 2), (0, 0), (-1, 0)])
@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_align_reference_is_torchvisions_pooler(levels, sampling, given_sampling, seed):
    images, form = 2, Align(levels=levels, sampling=given_sampling)
    rois = make_rois(images, 30, thresholds_of(levels), seed=seed)
    is_roi = is_present(rois)
    features = form.feature_maps(images, 2, seed=seed)
    pooler = MultiScaleRoIAlign([str(i) for i in range(levels)], form.grid, sampling)
    maps = OrderedDict((str(i), m) for i, m in enumerate(features))
    expected = pooler(maps, [rois[i][is_roi[i]] for i in range(images)], [CANVAS] * images)
    assert pooler.scales == form.attributes["spatial_scales"]

    found = form.in_reference(rois, features)
    assert torch.equal(found[is_roi.flatten()], expected)
    assert (found[~is_roi.flatten()] == 0).all()


@pytest.mark.parametrize("levels", [1, 3])
@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_pool_reference_is_torchvisions_roi_pool_of_the_level(levels, seed):
    images, per_image, form = 2, 30, Pool(levels=levels, grid=(7, 5))
    thresholds = thresholds_of(levels)
    rois = make_rois(images, per_image, thresholds, seed=seed)
    features = form.feature_maps(images, 2, seed=seed)
    found = form.in_reference(rois, features).reshape(images, per_image, 2, *form.grid)
    for image, roi in ((image, roi) for image in range(images) for roi in range(per_image)):
        x1, y1, x2, y2 = box = rois[image, roi]
        expected = torch.zeros(2, *form.grid)
        if is_present(box):
            side = ((x2 - x1) * (y2 - y1)).sqrt()
            level = sum(bool(side >= torch.tensor(threshold)) for threshold in thresholds)
            expected = roi_pool(features[level][image][None], [box[None]], form.grid, 1 / form.strides[level])[0]
        assert torch.equal(found[image, roi], expected)
