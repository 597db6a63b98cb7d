"""Box arithmetic of the references, compared with torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from frcnn.plugins.boxes.reference import clip, decode, is_larger


def random_boxes(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator) * 300 - 50
    return torch.cat([start, start + torch.rand(count, 2, generator=generator) * 200], dim=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (8.0, 9.0, 4.0, 3.0)])
def test_decode_equals_torchvision_exactly(weights):
    coder = BoxCoder(weights)
    anchors = random_boxes(500, seed=0)
    moves = torch.randn(500, 4, generator=torch.Generator().manual_seed(1)) * 3
    deltas = moves * torch.tensor(weights)
    expected = coder.decode_single(deltas, anchors)
    assert torch.equal(decode(deltas, anchors, weights, coder.bbox_xform_clip), expected)
    assert (moves[:, 2:] > math.log(1000 / 16)).any()


def test_clip_and_is_larger_equal_torchvision_for_each_image():
    boxes = torch.stack([random_boxes(200, seed=2), random_boxes(200, seed=3)])
    boxes[:, :20, 2:] = boxes[:, :20, :2] + 5e-3
    sizes = torch.tensor([[150.0, 220.0], [97.0, 131.0]])
    clipped = clip(boxes, sizes)
    for one, size, whole in zip(boxes, [(150, 220), (97, 131)], clipped, strict=True):
        assert torch.equal(whole, clip_boxes_to_image(one, size))
        kept = remove_small_boxes(whole, 1e-2)
        assert 0 < len(kept) < 200
        assert torch.equal(torch.nonzero(is_larger(whole, 1e-2)).squeeze(1), kept)


def test_clip_accepts_boxes_per_class():
    boxes = random_boxes(60, seed=4).reshape(2, 3, 10, 4)
    sizes = torch.tensor([[150.0, 220.0], [97.0, 131.0]])
    expected = clip(boxes.flatten(1, 2), sizes).reshape(boxes.shape)
    assert torch.equal(clip(boxes, sizes), expected)
