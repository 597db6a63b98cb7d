"""How far rounding moves scores. Works on PyTorch's tensors and imports nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Scores = TypeVar("Scores", "Tensor", NDArray[np.float32])


def score_noise(scores: Scores, noise: float) -> Scores:
    """Return how far rounding moves scores: by ``noise`` at 0.5, and less towards 0 and 1, where logits move as far."""
    return 4 * noise * scores * (1 - scores) + 1e-7
