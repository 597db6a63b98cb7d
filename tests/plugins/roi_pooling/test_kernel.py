"""The plan of the RoI pooling kernels: what a block takes into shared memory."""

from __future__ import annotations

import pytest
from support.operators import pooling_attributes

from frcnn.errors import KernelError
from frcnn.plugins.multiscale_roi_align.kernel import kernels

PLANAR = {"layout": "planar", "output_layout": "planar"}
STAGED = {"layout": "channels_last", "output_layout": "planar"}
DIRECT = {"layout": "channels_last", "output_layout": "channels_last"}


def plan(layouts, grid=(7, 7), sampling_ratio=2, **more):
    attributes = pooling_attributes(4, grid, (4, 8, 16, 32), sampling_ratio=sampling_ratio, aligned=0)
    (kernel,) = kernels(**attributes, **layouts, **more)
    return kernel


@pytest.mark.parametrize(
    ("layouts", "element", "channels"),
    [(PLANAR, "float32", 64), (STAGED, "float32", 128), (STAGED, "float16", 256), (DIRECT, "float16", 256)],
)
def test_a_block_takes_as_many_channels_as_its_stage_holds(layouts, element, channels):
    kernel = plan(layouts, element=element)
    assert kernel.constants["CHANNELS_PER_BLOCK"] == channels
    assert kernel.grid == ("N*R", f"ceil_div(C, {channels})", "1")
    assert kernel.block[0] == kernel.constants["THREADS"] and kernel.block[0] % 32 == 0


@pytest.mark.parametrize(("layouts", "width"), [(PLANAR, 191), (DIRECT, 191), (STAGED, 179)])
def test_samples_and_stage_fit_into_48_kib(layouts, width):
    """16 bytes a row or column of samples, here 16 (1 + width); a staged output has 16 width + 4 bytes more."""
    plan(layouts, grid=(1, width), sampling_ratio=16)
    with pytest.raises(KernelError, match="49152 bytes of shared memory"):
        plan(layouts, grid=(1, width + 1), sampling_ratio=16)
