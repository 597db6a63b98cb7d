"""frcnn.runtime.images.resize against torch.nn.functional.interpolate, Pillow and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.byte_resizes import by_opencv, by_pillow, random_bytes

from frcnn.runtime.images.resize import Axis, resize_affine, resize_bytes

ONE = np.ones(3, np.float32)
ZERO = np.zeros(3, np.float32)


def resized(source: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.full((source.shape[2], height, width), np.nan, np.float32)
    resize_affine(source, out, scale=ONE, bias=ZERO)
    return out


def by_torch(source: np.ndarray, height: int, width: int) -> np.ndarray:
    tensor = torch.from_numpy(source.astype(np.float32)).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False)[
        0
    ].numpy()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 120), st.integers(1, 120), st.integers(0, 2**32 - 1))
def test_equals_torch_on_small_images(height: int, width: int, out_height: int, out_width: int, seed: int) -> None:
    source = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    np.testing.assert_allclose(
        resized(source, out_height, out_width), by_torch(source, out_height, out_width), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((480, 640), (800, 1066)),
        ((427, 640), (320, 479)),
        ((1500, 1200), (400, 320)),
        ((1, 1), (320, 320)),
        ((1, 4000), (1, 640)),
        ((4000, 3), (640, 1)),
        ((7, 3999), (31, 1333)),
        ((33, 45), (33, 45)),
        ((33, 45), (33, 90)),
        ((33, 45), (66, 45)),
    ],
)
def test_equals_torch_on_typical_shapes(size: tuple[int, int], target: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    difference = np.abs(resized(source, *target) - by_torch(source, *target)).max()
    assert difference <= 1e-4 * 255


def test_equals_torch_on_20000_pixels() -> None:
    source = np.random.default_rng(0).random((5, 20_000, 3), dtype=np.float32)
    assert np.abs(resized(source, 3, 13_330) - by_torch(source, 3, 13_330)).max() <= 1e-3


def test_same_size_is_exact() -> None:
    source = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
    np.testing.assert_array_equal(resized(source, 20, 30), source.transpose(2, 0, 1))


def test_scale_and_bias_are_per_channel() -> None:
    source = np.ones((4, 5, 3), np.uint8)
    for height in (3, 9):  # both orders of the axes
        out = np.empty((3, height, 6), np.float32)
        resize_affine(source, out, scale=np.array([1, 2, 3], np.float32), bias=np.array([10, 20, 30], np.float32))
        np.testing.assert_array_equal(out[:, 1, 2], [11, 22, 33])


def test_writes_into_a_view_of_a_larger_canvas() -> None:
    canvas = np.full((3, 10, 12), -1, np.float32)
    source = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
    resize_affine(source, canvas[:, :7, :9], scale=ONE, bias=ZERO)
    np.testing.assert_array_equal(canvas[:, :7, :9], resized(source, 7, 9))
    assert (canvas[:, 7:] == -1).all()
    assert (canvas[:, :, 9:] == -1).all()


def test_source_may_be_strided() -> None:
    source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)[::-1, ::2]
    np.testing.assert_array_equal(resized(source, 9, 9), resized(np.ascontiguousarray(source), 9, 9))


@pytest.mark.parametrize("size", [(40, 50), (9, 11)])
def test_bgr_and_rgb_give_the_same_bits(size: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    scale, bias = np.array([0.5, 0.25, 3], np.float32), np.array([0, 1, -2], np.float32)
    made = []
    for pixels in (source, source[:, :, ::-1].copy()[:, :, ::-1]):
        canvas = np.zeros((3, 64, 64), np.float32)
        resize_affine(pixels, canvas[:, : size[0], : size[1]], scale=scale, bias=bias)
        made.append(canvas)
    np.testing.assert_array_equal(*made)


@given(st.integers(1, 20_000), st.integers(1, 2_000))
def test_axis_stays_inside_the_source(source: int, target: int) -> None:
    axis = Axis.between(source, target)
    assert axis.before.shape == axis.after.shape == axis.weight.shape == (target,)
    assert axis.before.min() >= 0
    assert axis.after.max() <= source - 1
    assert (np.diff(axis.before) >= 0).all()
    assert (axis.after - axis.before <= 1).all()
    assert axis.weight.min() >= 0
    assert axis.weight.max() <= 1


sides = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.booleans())
def test_bytes_are_resized_to_the_bit(height: int, width: int, out_height: int, out_width: int, half: bool) -> None:
    size = (out_height, out_width)
    pixels = random_bytes(*((2 * out_height, 2 * out_width) if half else (height, width)))
    bgr = pixels[:, :, ::-1].copy()[:, :, ::-1]
    by_cv2 = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    for source in (pixels, bgr):
        np.testing.assert_array_equal(resize_bytes(source, size, "detectron2"), by_pillow(pixels, *size))
        np.testing.assert_array_equal(resize_bytes(source, size, "mmdetection"), by_cv2)
    np.testing.assert_array_equal(by_opencv(pixels, *size), by_cv2)


@pytest.mark.parametrize(("size", "target"), [((427, 640), (160, 240)), ((64, 96), (160, 240)), ((50, 50), (70, 70))])
def test_rows_come_first_as_in_every_pillow_for_images_that_are_not_tall(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    pixels = random_bytes(*size)
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_bytes(pixels, target, "detectron2"), expected)


def test_an_image_of_its_own_size_is_only_scaled() -> None:
    pixels = random_bytes(31, 17)
    for source in (pixels, pixels[:, :, ::-1]):
        out = np.empty((3, 31, 17), np.float32)
        resize_affine(source, out, scale=np.float32([2, 3, 4]), bias=np.float32([5, 6, 7]))
        np.testing.assert_array_equal(out, source.transpose(2, 0, 1) * [[[2]], [[3]], [[4]]] + [[[5]], [[6]], [[7]]])
