"""RoI pooling on CUDA, run on the CPU from the same source, against the reference.

RoIAlign sums the weights of a cell before it multiplies, so a float32 value may differ by the roundings of its sums: at
most ``BOUND``, about 1e-6, times the largest cell. It is exact where the weights are. Half precision adds the rounding
of the result. Max pooling is the same bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import STRIDES, is_present, make_rois, pooling_attributes, thresholds_of
from support.simt import require_compiler, run_on_host
from torch import Tensor

from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as pool_kernels
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool
from frcnn.plugins.roi_pooling.level_boundaries import NEVER

pytestmark = pytest.mark.slow

CANVAS = (256, 320)
BOUND = 16 * 2.0**-24
ROUNDING = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # a last place of the result
LAYOUTS = {
    "planar": {"layout": "planar"},
    "last": {"layout": "channels_last"},
    "last-last": {"layout": "channels_last", "output_layout": "channels_last"},
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """A kernel: RoI max pooling where there is no sampling ratio, else RoIAlign; ``fixed`` channels are compiled in."""

    element: str
    layouts: str
    levels: int
    grid: tuple[int, int] = (7, 7)
    sampling: int | None = None
    aligned: int = 0
    fixed: int | None = None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the maps."""
        return [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in strides(self.levels)]

    @property
    def attributes(self) -> dict[str, Any]:
        given = attributes(self.levels, self.grid)
        return given if self.sampling is None else given | {"sampling_ratio": self.sampling, "aligned": self.aligned}

    def channels(self, groups: int) -> int:
        """Return the channels of so many vectors, or those that are compiled in."""
        return self.fixed or groups * (1 if self.layouts == "planar" else 4 if self.element == "float32" else 8)

    def maps(self, maps: list[Tensor]) -> list[Tensor]:
        """Return maps in the type and layout of the kernel."""
        kind = torch.contiguous_format if self.layouts == "planar" else torch.channels_last
        return [m.to(getattr(torch, self.element)).contiguous(memory_format=kind) for m in maps]

    def random_maps(self, images: int, channels: int, *, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return self.maps([torch.randn(images, channels, *size, generator=generator) for size in self.sizes])

    def constant_maps(self, images: int, values: list[float]) -> list[Tensor]:
        channels = self.fixed or 8
        return self.maps([torch.full((images, channels, *s), v) for s, v in zip(self.sizes, values, strict=True)])

    def run(self, rois: Tensor, maps: list[Tensor], schedule: str = "forward") -> Tensor:
        return run(launches(self), rois, maps, schedule)

    def expected(self, rois: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the reference of RoIAlign in float32."""
        return multiscale_roi_align(rois, [m.float() for m in maps], **self.attributes)

    def check(self, found: Tensor, rois: Tensor, maps: list[Tensor]) -> None:
        """Hold the kernel's output to the reference."""
        assert found.dtype == maps[0].dtype
        if self.sampling is None:
            assert torch.equal(found, multiscale_roi_pool(rois, maps, **self.attributes))
            return
        expected = self.expected(rois, maps)
        assert found.shape == expected.shape
        largest = max(float(m.float().abs().max()) for m in maps)
        allowed = BOUND * largest + ROUNDING[self.element] * expected.abs()
        assert ((found.float() - expected).abs() <= allowed).all(), float((found.float() - expected).abs().max())


ALIGN_FORMS = [
    Form(element="float32", layouts="planar", levels=1, sampling=2),
    Form(element="float16", layouts="last", levels=4, sampling=2),
    Form(element="bfloat16", layouts="last", levels=5, sampling=0, aligned=1, grid=(5, 6)),
    Form(element="float32", layouts="last", levels=4, sampling=0),
    Form(element="float16", layouts="last-last", levels=3, sampling=2, aligned=1, grid=(14, 14)),
    Form(element="float32", layouts="last-last", levels=8, sampling=3, grid=(2, 3)),
    Form(element="bfloat16", layouts="planar", levels=4, sampling=2, grid=(1, 1)),
    Form(element="float16", layouts="planar", levels=2, sampling=0, grid=(3, 5)),
    Form(element="float16", layouts="last-last", levels=4, sampling=2, fixed=256),
    Form(element="bfloat16", layouts="last", levels=4, sampling=3, fixed=256, grid=(4, 5)),
    Form(element="float32", layouts="last-last", levels=4, sampling=1, fixed=128, aligned=1),
    Form(element="float16", layouts="last-last", levels=2, sampling=5, fixed=328, grid=(3, 2)),
    Form(element="float32", layouts="planar", levels=2, sampling=2, fixed=70),
]
POOL_FORMS = [
    Form(element="float32", layouts="planar", levels=1),
    Form(element="float16", layouts="last", levels=1),
    Form(element="bfloat16", layouts="last", levels=3, grid=(5, 6)),
    Form(element="float32", layouts="last-last", levels=4),
    Form(element="float16", layouts="planar", levels=2, grid=(14, 3)),
    Form(element="float16", layouts="last-last", levels=4, fixed=256),
]
FORMS = pytest.mark.parametrize("form", [*ALIGN_FORMS, *POOL_FORMS], ids=repr)


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def strides(levels: int) -> tuple[int, ...]:
    return (16,) if levels == 1 else (*STRIDES, 128, 256, 512)[:levels]


def attributes(levels: int, grid: tuple[int, int], **rest: Any) -> dict[str, Any]:
    return pooling_attributes(levels, grid, strides(levels), **rest)


@cache
def launches(form: Form) -> Any:
    kernels = pool_kernels if form.sampling is None else align_kernels
    return kernels(element=form.element, channels=form.fixed, **LAYOUTS[form.layouts], **form.attributes)


def run(launches: Any, rois: Tensor, maps: list[Tensor], schedule: str = "forward") -> Tensor:
    inputs = {"rois": rois, **{f"feature_{i}": m for i, m in enumerate(maps)}}
    return run_on_host(launches, inputs, schedule=schedule)["pooled"]


@FORMS
@settings(max_examples=15)
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 24),
    st.integers(1, 5),
    st.sampled_from(["forward", "reverse", "shuffled"]),
)
def test_a_kernel_is_the_reference(form, seed, images, per_image, groups, schedule):
    rois = make_rois(images, per_image, thresholds_of(form.levels), seed=seed)
    maps = form.random_maps(images, form.channels(groups), seed=seed)
    form.check(form.run(rois, maps, schedule), rois, maps)


@pytest.mark.parametrize("form", [ALIGN_FORMS[1], ALIGN_FORMS[4], ALIGN_FORMS[0], POOL_FORMS[2]], ids=repr)
def test_more_channels_than_a_block_takes(form):
    (kernel,) = launches(form)
    per_block = kernel.constants["CHANNELS_PER_BLOCK"]
    rois = make_rois(1, 5, thresholds_of(form.levels), seed=3)
    for channels in (per_block, per_block + form.channels(1), 2 * per_block + 8):
        maps = form.random_maps(1, channels, seed=channels)
        form.check(form.run(rois, maps), rois, maps)


@pytest.mark.parametrize("form", ALIGN_FORMS, ids=repr)
def test_only_cells_that_a_sample_reads_can_make_a_bin_not_a_number(form):
    """torchvision multiplies with the first cell, by 0, for a sample that is off the map: here it is a number."""
    rois = make_rois(2, 20, thresholds_of(form.levels), seed=5)
    maps = form.random_maps(2, form.channels(2), seed=5)
    generator = torch.Generator().manual_seed(5)
    for feature in maps:
        for value in (float("nan"), float("inf"), float("-inf")):
            feature[(torch.rand(feature.shape, generator=generator) < 0.01) & (feature != feature[..., :1, :1])] = value
    found, expected = form.run(rois, maps), form.expected(rois, maps)
    numbers = expected.isfinite()
    assert 0.2 < numbers.float().mean() < 0.999
    assert torch.equal(found.isfinite(), numbers)
    largest = max(float(m[m.isfinite()].float().abs().max()) for m in maps)
    allowed = BOUND * largest + ROUNDING[form.element] * expected[numbers].abs()
    assert ((found.float()[numbers] - expected[numbers]).abs() <= allowed).all()


@pytest.mark.parametrize("form", [f for f in ALIGN_FORMS if f.sampling in (0, 1, 2)], ids=repr)
def test_rois_of_whole_bins_are_exact(form):
    """Bins of whole cells that begin on quarters of cells have weights of few bits, small whole numbers exact sums."""
    (height, width), stride = form.grid, strides(form.levels)[0]
    generator = torch.Generator().manual_seed(4)
    starts = torch.randint(-8, 40, (30, 2), generator=generator) / 4 + form.aligned / 2
    bins = torch.tensor([[1, 1], [2, 1], [1, 2], [2, 2]]).repeat(8, 1)[:30]
    rois = torch.cat([starts, starts + bins * torch.tensor([width, height])], dim=1)[None] * stride
    shapes = [(1, form.channels(2), *size) for size in form.sizes]
    maps = form.maps([torch.randint(-8, 9, shape, generator=generator).float() for shape in shapes])
    assert torch.equal(form.run(rois, maps), form.expected(rois, maps).to(maps[0].dtype))


@pytest.mark.parametrize("form", [ALIGN_FORMS[1], ALIGN_FORMS[3], ALIGN_FORMS[0], POOL_FORMS[3]], ids=repr)
def test_a_level_begins_exactly_at_its_threshold(form):
    form = replace(form, levels=4)
    sides = torch.tensor(thresholds_of(4))
    sides = torch.stack([torch.nextafter(sides, sides * 0), sides, torch.nextafter(sides, sides * 2)], dim=1).flatten()
    rois = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)[None]
    found = form.run(rois, form.constant_maps(1, [0.0, 1.0, 2.0, 3.0]))
    assert found[:, 0, 0, 0].round().tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]


@FORMS
def test_absent_rois_are_zero_even_where_the_maps_are_not_numbers(form):
    rois = make_rois(2, 60, thresholds_of(form.levels), seed=8)
    absent = ~is_present(rois).flatten()
    assert absent.any()
    assert (form.run(rois, form.constant_maps(2, [float("nan")] * form.levels))[absent] == 0).all()


@pytest.mark.parametrize("kernels", [align_kernels, pool_kernels], ids=["align", "pool"])
def test_a_level_that_is_never_reached_is_never_pooled(kernels):
    given = attributes(2, (7, 7)) | {"level_thresholds": [NEVER]}
    given |= {"sampling_ratio": 2, "aligned": 0} if kernels is align_kernels else {}
    maps = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)]
    rois = torch.tensor([[[0.0, 0.0, 1e6, 1e6], [0.0, 0.0, 9.0, 9.0]]])
    assert (run(kernels(**given), rois, maps) == 0).all()


@pytest.mark.parametrize("sampling", [0, 2])
def test_a_roi_far_larger_than_the_map_is_cheap_and_finite(sampling):
    """Adaptive sampling of such a RoI would take torchvision hours: the samples that are on the map decide."""
    given = attributes(1, (3, 3), sampling_ratio=sampling, aligned=0) | {"spatial_scales": [1.0]}
    rois = torch.tensor([[[-1e9, -1e9, 1e9, 1e9], [-1e12, 2.0, 1e12, 5.0], [-9e5, -9e5, 9e5, 9e5]]])
    pooled = run(align_kernels(**given), rois, [torch.ones(1, 1, 8, 8)])
    assert pooled.isfinite().all()
    # the middle bin of the last RoI is 600,000 cells a side, of which 9 x 9 have weight: at most that share of it
    assert (pooled[2] <= 81 / 600_000**2 * 1.01).all()
    assert (pooled[2, 0, 1, 1] > 0) == (sampling == 0)


@pytest.mark.parametrize("far", [1e9, 1e12, 1e18])
def test_max_pooling_of_a_roi_far_larger_than_the_map(far):
    given = attributes(1, (3, 3)) | {"spatial_scales": [1.0]}
    rois = torch.tensor([[[-far, -far, far, far], [far, far, far, far]]])
    pooled = run(pool_kernels(**given), rois, [torch.arange(64.0).reshape(1, 1, 8, 8)])
    assert pooled[0, 0, 1, 1] == 63
    assert int((pooled != 0).sum()) == 1


@pytest.mark.parametrize("shape", [(1, 0), (2, 0), (0, 5)])
def test_no_rois_or_no_images_give_an_empty_tensor(shape):
    maps = [torch.zeros(shape[0], 8, 4, 4, dtype=torch.float16).contiguous(memory_format=torch.channels_last)] * 4
    assert ALIGN_FORMS[1].run(torch.zeros(*shape, 4), maps).shape == (0, 8, 7, 7)
