from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import level_rule, thresholds_of
from torchvision.ops.poolers import initLevelMapper

from frcnn.plugins.roi_pooling.level_boundaries import NEVER, level_thresholds

# Found by bisecting torchvision's rule and by trying 4 million floats round each.
PUBLISHED = (111.99991607666016, 223.99984741210938, 447.9996337890625, 895.999267578125)


def count_reached(boxes: torch.Tensor, thresholds: tuple[float, ...]) -> torch.Tensor:
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (sides[:, None] >= torch.tensor(thresholds)).sum(1)


def test_thresholds_of_the_usual_pyramid_are_the_published_ones():
    assert thresholds_of(5) == PUBLISHED


def test_a_level_that_no_side_reaches_begins_never():
    assert level_thresholds(lambda side: min(1, int(side >= 10.0)), coarsest_level=3) == (10.0, NEVER, NEVER)


def test_one_level_has_one_threshold_that_no_side_reaches():
    assert level_thresholds(lambda side: 0, coarsest_level=0) == (NEVER,)


@pytest.mark.parametrize("begin", [1e-30, 0.1, 1.0, 3.0, 112.0, 1e30])
def test_a_threshold_is_the_first_float32_of_its_level(begin):
    (found,) = level_thresholds(lambda side: int(side >= begin), coarsest_level=1)
    assert found == np.float32(found)
    assert found >= begin > float(np.nextafter(np.float32(found), np.float32(0)))


@pytest.mark.parametrize(("scale", "level"), [(224, 4), (112, 3), (200, 5), (300, 4)])
def test_counting_thresholds_is_torchvisions_level_mapper_at_every_boundary(scale, level):
    mapper = initLevelMapper(2, 6, scale, level)
    thresholds = level_thresholds(level_rule(mapper), coarsest_level=4)
    around = np.concatenate(
        [(np.array(t, np.float32).view(np.int32) + np.arange(-2000, 2000, dtype=np.int32)) for t in thresholds]
    ).astype(np.int32)
    sides = torch.from_numpy(around.view(np.float32).copy())
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    expected = mapper([boxes])
    assert set(expected.tolist()) == set(range(5))
    assert torch.equal(count_reached(boxes, thresholds), expected)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4, 5]))
def test_counting_thresholds_is_torchvisions_level_mapper_on_any_boxes(seed, levels):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 1000, (500, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + np.exp(rng.uniform(-2, 8, (500, 2)))], 1)).float()
    mapper = initLevelMapper(2, 1 + levels, 224, 4)
    assert torch.equal(count_reached(boxes, thresholds_of(levels)), mapper([boxes]))
