"""RoI pooling on CUDA, run on the CPU from the same source, against the reference.

RoIAlign adds the same products in another order, so a float32 value may differ by the roundings of its sum: at most
``BOUND`` times the largest cell. Half precision adds the rounding of the result. Max pooling is the same bit for bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.operators import STRIDES, is_present, make_rois, thresholds_of
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

# element, layouts, levels, aligned, sampling ratio, grid
ALIGN_FORMS = [
    ("float32", "planar", 1, 0, 2, (7, 7)),
    ("float16", "last", 4, 0, 2, (7, 7)),
    ("bfloat16", "last", 5, 1, 0, (5, 6)),
    ("float32", "last", 4, 0, 0, (7, 7)),
    ("float16", "last-last", 3, 1, 2, (14, 14)),
    ("float32", "last-last", 8, 0, 3, (2, 3)),
    ("bfloat16", "planar", 4, 0, 2, (1, 1)),
    ("float16", "planar", 2, 0, 0, (3, 5)),
]
POOL_FORMS = [
    ("float32", "planar", 1, (7, 7)),
    ("float16", "last", 1, (7, 7)),
    ("bfloat16", "last", 3, (5, 6)),
    ("float32", "last-last", 4, (7, 7)),
    ("float16", "planar", 2, (14, 3)),
]


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def strides(levels: int) -> tuple[int, ...]:
    return (16,) if levels == 1 else (*STRIDES, 128, 256, 512)[:levels]


def attributes(levels: int, grid: tuple[int, int], **rest: Any) -> dict[str, Any]:
    return {
        "output_height": grid[0],
        "output_width": grid[1],
        "spatial_scales": [1 / stride for stride in strides(levels)],
        "level_thresholds": list(thresholds_of(levels)),
        **rest,
    }


def channels_of(element: str, layouts: str, groups: int) -> int:
    vector = 1 if layouts == "planar" else 4 if element == "float32" else 8
    return vector * groups


def feature_maps(images: int, channels: int, form: tuple[Any, ...], *, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in strides(form[2])]
    maps = [torch.randn(images, channels, *size, generator=generator) for size in sizes]
    return in_form(maps, form)


def in_form(maps: list[Tensor], form: tuple[Any, ...]) -> list[Tensor]:
    kind = torch.contiguous_format if form[1] == "planar" else torch.channels_last
    return [m.to(getattr(torch, form[0])).contiguous(memory_format=kind) for m in maps]


@cache
def align_launches(form: tuple[Any, ...]) -> Any:
    element, layouts, levels, aligned, sampling, grid = form
    given = attributes(levels, grid, sampling_ratio=sampling, aligned=aligned)
    return given, align_kernels(element=element, **LAYOUTS[layouts], **given)


@cache
def pool_launches(form: tuple[Any, ...]) -> Any:
    element, layouts, levels, grid = form
    given = attributes(levels, grid)
    return given, pool_kernels(element=element, **LAYOUTS[layouts], **given)


def run(launches: Any, rois: Tensor, maps: list[Tensor], schedule: str = "forward") -> Tensor:
    inputs = {"rois": rois, **{f"feature_{i}": m for i, m in enumerate(maps)}}
    return run_on_host(launches, inputs, schedule=schedule)["pooled"]


def assert_close(found: Tensor, form: tuple[Any, ...], rois: Tensor, maps: list[Tensor], given: Any) -> None:
    expected = multiscale_roi_align(rois, [m.float() for m in maps], **given)
    assert found.dtype == maps[0].dtype
    assert found.shape == expected.shape
    largest = max(float(m.float().abs().max()) for m in maps)
    allowed = BOUND * largest + ROUNDING[form[0]] * expected.abs()
    assert ((found.float() - expected).abs() <= allowed).all(), float((found.float() - expected).abs().max())


@pytest.mark.parametrize("form", ALIGN_FORMS, ids=str)
@settings(max_examples=15)
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 24),
    st.integers(1, 5),
    st.sampled_from(["forward", "reverse", "shuffled"]),
)
def test_align_is_the_reference(form, seed, images, per_image, groups, schedule):
    given, launches = align_launches(form)
    rois = make_rois(images, per_image, given["level_thresholds"], seed=seed)
    maps = feature_maps(images, channels_of(form[0], form[1], groups), form, seed=seed)
    assert_close(run(launches, rois, maps, schedule), form, rois, maps, given)


@pytest.mark.parametrize("form", POOL_FORMS, ids=str)
@settings(max_examples=15)
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 24),
    st.integers(1, 5),
    st.sampled_from(["forward", "reverse", "shuffled"]),
)
def test_max_pooling_is_the_reference_bit_for_bit(form, seed, images, per_image, groups, schedule):
    given, launches = pool_launches(form)
    rois = make_rois(images, per_image, given["level_thresholds"], seed=seed)
    maps = feature_maps(images, channels_of(form[0], form[1], groups), form, seed=seed)
    found = run(launches, rois, maps, schedule)
    assert found.dtype == maps[0].dtype
    assert torch.equal(found, multiscale_roi_pool(rois, maps, **given))


@pytest.mark.parametrize("form", [ALIGN_FORMS[1], ALIGN_FORMS[4], ALIGN_FORMS[0]], ids=str)
def test_more_channels_than_a_block_takes(form):
    given, launches = align_launches(form)
    (kernel,) = launches
    per_block = kernel.constants["CHANNELS_PER_BLOCK"]
    rois = make_rois(1, 5, given["level_thresholds"], seed=3)
    for channels in (per_block, per_block + channels_of(form[0], form[1], 1), 2 * per_block + 8):
        maps = feature_maps(1, channels, form, seed=channels)
        assert_close(run(launches, rois, maps), form, rois, maps, given)


@pytest.mark.parametrize("form", [ALIGN_FORMS[1], ALIGN_FORMS[3], ALIGN_FORMS[0]], ids=str)
def test_a_level_begins_exactly_at_its_threshold(form):
    given, launches = align_launches((*form[:2], 4, *form[3:]))
    sizes = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in STRIDES[:4]]
    maps = in_form([torch.full((1, 8, *size), float(level)) for level, size in enumerate(sizes)], form)
    sides = torch.tensor(given["level_thresholds"])
    sides = torch.stack([torch.nextafter(sides, sides * 0), sides, torch.nextafter(sides, sides * 2)], dim=1).flatten()
    rois = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)[None]
    assert run(launches, rois, maps)[:, 0, 0, 0].round().tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("form", ALIGN_FORMS, ids=str)
def test_absent_rois_are_zero_even_where_the_maps_are_not_numbers(form):
    given, launches = align_launches(form)
    rois = make_rois(2, 60, given["level_thresholds"], seed=8)
    sizes = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in strides(form[2])]
    maps = in_form([torch.full((2, 8, *size), float("nan")) for size in sizes], form)
    absent = ~is_present(rois).flatten()
    assert absent.any()
    assert (run(launches, rois, maps)[absent] == 0).all()


def test_a_level_that_is_never_reached_is_never_pooled():
    given = attributes(2, (7, 7), sampling_ratio=2, aligned=0) | {"level_thresholds": [NEVER]}
    maps = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)]
    rois = torch.tensor([[[0.0, 0.0, 1e6, 1e6], [0.0, 0.0, 9.0, 9.0]]])
    assert (run(align_kernels(**given), rois, maps) == 0).all()


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
    _, launches = align_launches(ALIGN_FORMS[1])
    maps = [torch.zeros(shape[0], 8, 4, 4, dtype=torch.float16).contiguous(memory_format=torch.channels_last)] * 4
    assert run(launches, torch.zeros(*shape, 4), maps).shape == (0, 8, 7, 7)
