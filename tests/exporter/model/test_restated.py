"""torchvision's parts with the arithmetic of other trainers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from frcnn.exporter.model.restated import RestatedRoIPooler, RestatedTransform
from frcnn.spec import TransformSpec

STRIDES = (4, 8, 16, 32)


def of_detectron2(side: Tensor) -> Tensor:
    """The level of a RoI as Detectron2 states it, from 0."""
    return torch.floor(4 + torch.log2(side / 224 + 1e-8)).clamp(2, 5) - 2


def of_mmdetection(side: Tensor) -> Tensor:
    """The level of a RoI as MMDetection states it."""
    return torch.floor(torch.log2(side / 56 + 1e-6)).clamp(0, 3)


@pytest.mark.parametrize(("trainer", "rule"), [("detectron2", of_detectron2), ("mmdetection", of_mmdetection)])
def test_levels_begin_where_the_trainer_has_them(trainer: str, rule: object) -> None:
    pooler = RestatedRoIPooler(["0", "1", "2", "3"], 7, strides=STRIDES, trainer=trainer, finest_scale=112.0)
    for level, threshold in enumerate(pooler.level_thresholds):
        first = torch.tensor(threshold)
        last = torch.nextafter(first, torch.tensor(0.0))
        assert [int(rule(side)) for side in (last, first)] == [level, level + 1]  # type: ignore[operator]
        assert threshold == pytest.approx(112 * 2**level, rel=1e-5)


def test_rois_are_pooled_from_their_levels() -> None:
    torch.manual_seed(0)
    maps = {str(i): torch.randn(1, 2, 512 // stride, 512 // stride) for i, stride in enumerate(STRIDES)}
    rois = torch.tensor([[0.0, 0.0, 50.0, 60.0], [10.0, 20.0, 170.0, 200.0], [3.0, 5.0, 500.0, 480.0]])
    pooler = RestatedRoIPooler(list(maps), 7, strides=STRIDES, trainer="detectron2", finest_scale=112.0)
    pooled = pooler(maps, [rois], [(512, 512)])
    for row, level in enumerate((0, 1, 3)):
        expected = roi_align(maps[str(level)], [rois[row : row + 1]], 7, 1 / STRIDES[level], 0, aligned=True)
        assert torch.equal(pooled[row], expected[0])


@pytest.mark.parametrize("rule", ["detectron2", "mmdetection"])
def test_pixels_are_8_bit_until_they_are_normalised(rule: str) -> None:
    spec = TransformSpec(
        min_size=31,
        max_size=60,
        fixed_size=None,
        size_divisible=32,
        image_mean=(0.4, 0.5, 0.6),
        image_std=(0.2, 0.25, 0.5),
        resize=rule,  # type: ignore[arg-type]
    )
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 57, 71), np.uint8)).float() / 255
    batch, _ = RestatedTransform(spec)([image])
    assert batch.image_sizes == [(31, 39)]
    assert batch.tensors.shape == (1, 3, 32, 64)
    assert not batch.tensors[:, :, 31:].any()
    mean, std = torch.tensor(spec.image_mean)[:, None, None], torch.tensor(spec.image_std)[:, None, None]
    pixels = (batch.tensors[0, :, :31, :39] * std + mean) * 255
    assert float((pixels - pixels.round()).abs().max()) < 1e-4
    assert math.isclose(float(pixels.mean()), 127.5, abs_tol=3)
