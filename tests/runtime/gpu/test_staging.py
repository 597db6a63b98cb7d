"""frcnn.runtime.gpu.worker: every pixel is found again in the staged bytes."""

from __future__ import annotations

import numpy as np
import pytest
from support.strided import VIEWS

from frcnn.runtime.gpu.worker import staged


@pytest.mark.parametrize("name", VIEWS)
def test_staged_bytes_are_found_again(name: str) -> None:
    pixels = VIEWS[name]()
    stage = staged(pixels)
    assert all(step >= 0 for step in stage.pixels.strides)
    copied = np.ascontiguousarray(stage.pixels).ravel()
    height, width, _ = pixels.shape
    rows, columns, channels = np.ogrid[:height, :width, :3]
    at = stage.offset + rows * stage.strides[0] + columns * stage.strides[1] + channels * stage.strides[2]
    np.testing.assert_array_equal(copied[at], pixels)
    assert copied.size == (pixels.size // 3 if name.startswith("grey") else pixels.size)
