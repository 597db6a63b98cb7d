"""The plan of the RoI pooling kernels: what a block takes into shared memory, and channels that are compiled in."""

from __future__ import annotations

import pytest
from support.operators import pooling_attributes

from frcnn.errors import KernelError
from frcnn.plugins.cuda.compiler import fingerprint
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


@pytest.mark.parametrize(("layouts", "width"), [(PLANAR, 188), (DIRECT, 188), (STAGED, 177)])
def test_taps_and_stage_fit_into_48_kib(layouts, width):
    """32 taps and their count take 260 bytes a row or column, here 260 (1 + width); staged output 16 width + 4 more."""
    plan(layouts, grid=(1, width), sampling_ratio=16)
    with pytest.raises(KernelError, match="49152 bytes of shared memory"):
        plan(layouts, grid=(1, width + 1), sampling_ratio=16)


@pytest.mark.parametrize(
    ("layouts", "channels", "per_block"),
    [(DIRECT, 256, 256), (DIRECT, 64, 64), (DIRECT, 512, 256), (DIRECT, 320, 160), (STAGED, 96, 96), (PLANAR, 5, 64)],
)
def test_known_channels_are_compiled_in_and_spread_over_the_blocks(layouts, channels, per_block):
    known, any_number = plan(layouts, element="float16", channels=channels), plan(layouts, element="float16")
    assert (known.constants["CHANNELS"], known.constants["CHANNELS_PER_BLOCK"]) == (channels, per_block)
    assert fingerprint(known) != fingerprint(any_number)
    shapes = [(2, 10, 4)] + [(2, channels, 8, 8)] * 4
    launch, general = (kernel.bind(kernel.sizes(shapes)) for kernel in (known, any_number))
    assert launch.grid == (20, -(-channels // per_block), 1)
    assert (launch.integers, launch.output_shapes) == (general.integers, general.output_shapes)
    with pytest.raises(KernelError, match=f"must be {channels}, got {channels + 8}"):
        known.sizes([(2, 10, 4)] + [(2, channels + 8, 8, 8)] * 4)


@pytest.mark.parametrize(("layouts", "channels"), [(DIRECT, 12), (STAGED, 4), (PLANAR, 0), (DIRECT, -8)])
def test_channels_must_fill_vectors(layouts, channels):
    with pytest.raises(KernelError, match=f"positive multiple of [18], got {channels}"):
        plan(layouts, element="float16", channels=channels)
