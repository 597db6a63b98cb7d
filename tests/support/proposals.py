"""Groups of boxes for NMS, of all kinds."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor


@st.composite
def proposals(draw) -> tuple[Tensor, Tensor]:
    """Draw groups of up to 200 boxes: overlapping, equal, of no size; scores tied, absent or NaN; some groups empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups, maximum = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 17, 64, 200]))
    spread = draw(st.sampled_from([4, 12, 60]))
    corners = rng.uniform(0, spread, (groups, maximum, 2))
    sizes = rng.uniform(0, 12, (groups, maximum, 2))
    if draw(st.booleans()):  # on a lattice IoUs are fractions that meet the threshold exactly, and boxes repeat
        corners, sizes = np.round(corners), np.round(sizes)
    boxes = np.concatenate([corners, corners + sizes], axis=2)
    if draw(st.booleans()):
        boxes[:, 1::2] = boxes[:, : boxes[:, 1::2].shape[1]]
    scores = rng.uniform(0, 1, (groups, maximum))
    if draw(st.booleans()):
        scores = np.round(scores, 1)
    scores[rng.uniform(size=scores.shape) < draw(st.sampled_from([0.0, 0.3, 0.95]))] = -1.0
    if draw(st.booleans()):
        scores[rng.uniform(size=scores.shape) < 0.1] = np.nan
    if draw(st.booleans()):
        scores[draw(st.integers(0, groups - 1))] = -1.0
    return torch.from_numpy(boxes).float(), torch.from_numpy(scores).float()


@st.composite
def corner_cases(draw) -> tuple[Tensor, Tensor]:
    """Draw one to five boxes a group, number by number, so that a failure shrinks to what matters."""
    groups, maximum = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    coordinates = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0])
    ends = draw(hnp.arrays(np.float32, (groups, maximum, 2, 2), elements=coordinates))
    boxes = np.concatenate([ends.min(2), ends.max(2)], axis=2)
    values = st.sampled_from([-1.0, -0.0, 0.0, 1e-38, 0.5, 0.5000001, 1.0, float("nan"), -1e-3])
    scores = draw(hnp.arrays(np.float32, (groups, maximum), elements=values))
    return torch.from_numpy(boxes), torch.from_numpy(scores)
