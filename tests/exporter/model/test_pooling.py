"""``MultiScaleRoIPool`` compared with torchvision's ``roi_pool`` and the reference of the operator."""

from __future__ import annotations

from collections import OrderedDict

import torch
from support.operators import STRIDES, make_rois, thresholds_of
from torchvision.ops import roi_pool

from frcnn.exporter import MultiScaleRoIPool
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool

CANVAS = (256, 320)


def feature_maps(levels: int, stride: int = 4) -> OrderedDict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    strides = [stride * 2**i for i in range(levels)]
    return OrderedDict(
        (str(i), torch.randn(2, 3, CANVAS[0] // s, CANVAS[1] // s, generator=generator)) for i, s in enumerate(strides)
    )


def present_rois(levels: int) -> list[torch.Tensor]:
    rois = make_rois(2, 60, thresholds_of(levels), seed=1)
    sides = [r[:, 2:] - r[:, :2] for r in rois]
    return [r[(side >= 0).all(1) & side.prod(1).isfinite()] for r, side in zip(rois, sides, strict=True)]


def test_one_map_equals_torchvisions_roi_pool():
    rois = present_rois(1)
    features = feature_maps(1, stride=16)
    pooled = MultiScaleRoIPool(["0"], 7)(features, rois, [CANVAS] * 2)
    assert torch.equal(pooled, roi_pool(features["0"], rois, (7, 7), 1 / 16))
    assert pooled.shape == (len(rois[0]) + len(rois[1]), 3, 7, 7)


def test_several_maps_equal_the_reference_of_the_operator():
    levels, grid = 4, (5, 6)
    rois = present_rois(levels)
    features = feature_maps(levels)
    padded = [torch.cat([r, r.new_tensor([[0, 0, -1, -1]]).expand(60 - len(r), -1)]) for r in rois]
    expected = multiscale_roi_pool(
        torch.stack(padded),
        list(features.values()),
        output_height=5,
        output_width=6,
        spatial_scales=[1 / s for s in STRIDES[:levels]],
        level_thresholds=thresholds_of(levels),
    ).reshape(2, 60, 3, *grid)
    found = MultiScaleRoIPool(list(features), grid)(features, rois, [CANVAS] * 2)
    assert torch.equal(found, torch.cat([expected[i, : len(r)] for i, r in enumerate(rois)]))


def test_only_named_maps_are_pooled():
    features = feature_maps(2)
    pooler = MultiScaleRoIPool(["1"], 7)
    pooled = pooler(features, present_rois(1), [CANVAS] * 2)
    assert pooler.scales == [1 / 8]
    assert torch.equal(pooled, roi_pool(features["1"], present_rois(1), (7, 7), 1 / 8))


def test_an_image_may_have_no_rois():
    rois = [torch.zeros(0, 4), torch.tensor([[3.0, 3.0, 90.0, 90.0]])]
    assert MultiScaleRoIPool(["0", "1"], 7)(feature_maps(2), rois, [CANVAS] * 2).shape == (1, 3, 7, 7)


def test_gradients_flow_through_it():
    features = feature_maps(2)
    for m in features.values():
        m.requires_grad_()
    MultiScaleRoIPool(["0", "1"], 7)(features, present_rois(2), [CANVAS] * 2).sum().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in features.values())
