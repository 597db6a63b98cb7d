"""Preprocessing on CUDA, run on the CPU from the same source, against torchvision's GeneralizedRCNNTransform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.simt import require_compiler, run_on_host
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from frcnn.plugins.preprocess import PICTURE_COLUMNS, kernels
from frcnn.spec import TransformSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOUND = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}  # the issue asks for 1e-3 of float32


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def transform_of(min_size: int, max_size: int) -> tuple[TransformSpec, GeneralizedRCNNTransform]:
    spec = TransformSpec(
        min_size=min_size, max_size=max_size, fixed_size=None, size_divisible=32, image_mean=MEAN, image_std=STD
    )
    return spec, GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD))


def row_of(picture: NDArray[np.uint8], spec: TransformSpec) -> list[int]:
    """Return the table's row for an (H, W, 3) array of any strides."""
    height, width, _ = picture.shape
    address = picture.__array_interface__["data"][0]
    return [address, height, width, *picture.strides, *spec.resized_size(height, width)]


def preprocess(pictures: list[NDArray[np.uint8]], spec: TransformSpec, canvas: tuple[int, int], element: str) -> Tensor:
    table = torch.tensor([row_of(picture, spec) for picture in pictures], dtype=torch.int64)
    launches = kernels(element=element, image_mean=spec.image_mean, image_std=spec.image_std)
    sizes = {"H": canvas[0], "W": canvas[1]}
    return run_on_host(launches, {"pictures": table.reshape(-1, 8)}, sizes=sizes)["images"]


def in_torchvision(pictures: list[NDArray[np.uint8]], transform: GeneralizedRCNNTransform) -> Tensor:
    tensors = [torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255 for picture in pictures]
    return transform(tensors)[0].tensors


def random_picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


sides = st.one_of(st.integers(1, 90), st.sampled_from([1, 2, 64, 200]))


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.tuples(sides, sides), min_size=1, max_size=3),
    st.sampled_from([(40, 70), (64, 64), (33, 200)]),
    st.sampled_from(["float32", "float16", "bfloat16"]),
    st.integers(0, 2**32),
)
def test_a_batch_of_different_sizes_is_what_torchvision_makes_of_it(shapes, limits, element, seed):
    spec, transform = transform_of(*limits)
    shapes = [(h, w) for h, w in shapes if max(h, w) < 16 * min(h, w)] or [(9, 11)]  # torchvision fails on a side of 0
    pictures = [random_picture(h, w, seed + i) for i, (h, w) in enumerate(shapes)]
    expected = in_torchvision(pictures, transform)
    found = preprocess(pictures, spec, tuple(expected.shape[2:]), element)
    assert found.shape == expected.shape
    assert float((found.float() - expected).abs().max()) <= BOUND[element]


def test_a_larger_canvas_is_padded_with_zeros():
    spec, transform = transform_of(40, 70)
    pictures = [random_picture(50, 61, 1)]
    expected = in_torchvision(pictures, transform)
    found = preprocess(pictures, spec, (100, 141), "float32")
    height, width = expected.shape[2:]
    assert float((found[..., :height, :width] - expected).abs().max()) <= BOUND["float32"]
    assert (found[..., height:, :] == 0).all()
    assert (found[..., width:] == 0).all()


def test_strides_serve_crops_bgr_and_planar_pictures_without_a_copy():
    spec, _ = transform_of(40, 70)
    picture = random_picture(60, 80, 2)
    rgb = np.ascontiguousarray(picture[5:45, 7:67])
    expected = preprocess([rgb], spec, (64, 96), "float32")
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    planar = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    mirrored = np.ascontiguousarray(rgb[:, ::-1])
    views = [picture[5:45, 7:67], bgr[..., ::-1], planar.transpose(1, 2, 0), mirrored[:, ::-1]]
    assert not any(view.flags.c_contiguous for view in views)
    for view in views:
        assert torch.equal(preprocess([view], spec, (64, 96), "float32"), expected)


def test_a_picture_of_its_own_size_is_not_resampled():
    spec, _ = transform_of(40, 70)
    picture = random_picture(40, 64, 3)
    found = preprocess([picture], spec, (64, 64), "float32")[0, :, :40]
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    exact = (torch.from_numpy(picture).permute(2, 0, 1).double() / 255 - mean) / std
    assert float((found - exact).abs().max()) <= 1e-6


def test_the_table_is_as_documented():
    spec, _ = transform_of(40, 70)
    picture = random_picture(20, 30, 4)
    row = dict(zip(PICTURE_COLUMNS, row_of(picture, spec), strict=True))
    assert (row["height"], row["width"], row["row_stride"], row["column_stride"], row["channel_stride"]) == (
        20,
        30,
        90,
        3,
        1,
    )
    assert (row["resized_height"], row["resized_width"]) == (40, 60)


def test_no_pictures_make_no_images():
    spec, _ = transform_of(40, 70)
    assert preprocess([], spec, (64, 64), "float32").shape == (0, 3, 64, 64)
