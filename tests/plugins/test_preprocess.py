"""Preprocessing on CUDA, run on the CPU from the same source, against torchvision's transform, Pillow and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.byte_resizes import by_opencv, by_pillow
from support.simt import require_compiler, run_on_host
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from frcnn.plugins.preprocess import IMAGE_COLUMNS, kernels
from frcnn.spec import ResizeRule, TransformSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOUND = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def transform_of(min_size: int, max_size: int) -> tuple[TransformSpec, GeneralizedRCNNTransform]:
    spec = TransformSpec(
        min_size=min_size, max_size=max_size, fixed_size=None, size_divisible=32, image_mean=MEAN, image_std=STD
    )
    return spec, GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD))


def row_of(image: NDArray[np.uint8], spec: TransformSpec) -> list[int]:
    """Return the table's row for an (H, W, 3) array of any strides."""
    height, width, _ = image.shape
    address = image.__array_interface__["data"][0]
    return [address, height, width, *image.strides, *spec.resized_size(height, width)]


def preprocess(images: list[NDArray[np.uint8]], spec: TransformSpec, canvas: tuple[int, int], element: str) -> Tensor:
    table = torch.tensor([row_of(image, spec) for image in images], dtype=torch.int64)
    launches = kernels(element=element, image_mean=spec.image_mean, image_std=spec.image_std)
    sizes = {"H": canvas[0], "W": canvas[1]}
    return run_on_host(launches, {"sources": table.reshape(-1, 8)}, sizes=sizes)["images"]


def in_torchvision(images: list[NDArray[np.uint8]], transform: GeneralizedRCNNTransform) -> Tensor:
    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in images]
    return transform(tensors)[0].tensors


def random_image(height: int, width: int, seed: int) -> NDArray[np.uint8]:
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
    images = [random_image(h, w, seed + i) for i, (h, w) in enumerate(shapes)]
    expected = in_torchvision(images, transform)
    found = preprocess(images, spec, tuple(expected.shape[2:]), element)
    assert found.shape == expected.shape
    assert float((found.float() - expected).abs().max()) <= BOUND[element]


def test_a_larger_canvas_is_padded_with_zeros():
    spec, transform = transform_of(40, 70)
    images = [random_image(50, 61, 1)]
    expected = in_torchvision(images, transform)
    found = preprocess(images, spec, (100, 141), "float32")
    height, width = expected.shape[2:]
    assert float((found[..., :height, :width] - expected).abs().max()) <= BOUND["float32"]
    assert (found[..., height:, :] == 0).all()
    assert (found[..., width:] == 0).all()


def test_strides_serve_crops_bgr_and_planar_images_without_a_copy():
    spec, _ = transform_of(40, 70)
    image = random_image(60, 80, 2)
    rgb = np.ascontiguousarray(image[5:45, 7:67])
    expected = preprocess([rgb], spec, (64, 96), "float32")
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    planar = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    mirrored = np.ascontiguousarray(rgb[:, ::-1])
    views = [image[5:45, 7:67], bgr[..., ::-1], planar.transpose(1, 2, 0), mirrored[:, ::-1]]
    assert not any(view.flags.c_contiguous for view in views)
    for view in views:
        assert torch.equal(preprocess([view], spec, (64, 96), "float32"), expected)


def test_an_image_of_its_own_size_is_not_resampled():
    spec, _ = transform_of(40, 70)
    image = random_image(40, 64, 3)
    found = preprocess([image], spec, (64, 64), "float32")[0, :, :40]
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    exact = (torch.from_numpy(image).permute(2, 0, 1).double() / 255 - mean) / std
    assert float((found - exact).abs().max()) <= 1e-6


def test_the_table_is_as_documented():
    spec, _ = transform_of(40, 70)
    image = random_image(20, 30, 4)
    row = dict(zip(IMAGE_COLUMNS, row_of(image, spec), strict=True))
    sizes = {"height": 20, "width": 30, "resized_height": 40, "resized_width": 60}
    assert row | sizes | {"row_stride": 90, "column_stride": 3, "channel_stride": 1} == row


def test_no_images_make_no_images():
    spec, _ = transform_of(40, 70)
    assert preprocess([], spec, (64, 64), "float32").shape == (0, 3, 64, 64)


def as_bytes(image: NDArray[np.uint8], size: tuple[int, int], rule: ResizeRule) -> NDArray[np.float32]:
    """Return the bytes that a kernel resizes an image to, on a canvas that is larger, and check the padding."""
    row = [image.__array_interface__["data"][0], *image.shape[:2], *image.strides, *size]
    launches = kernels(image_mean=(0, 0, 0), image_std=(1 / 255,) * 3, resize=rule)
    canvas = {"H": size[0] + 3, "W": size[1] + 5}
    found = run_on_host(launches, {"sources": torch.tensor([row])}, sizes=canvas)["images"][0].permute(1, 2, 0).numpy()
    assert not found[size[0] :].any() and not found[:, size[1] :].any()
    return found[: size[0], : size[1]]


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((20, 31), (47, 150)),  # grows: to more columns than a block has
        ((97, 60), (31, 20)),
        ((64, 22), (9, 40)),
        ((26, 34), (13, 17)),  # half in both directions
        ((26, 34), (13, 34)),
        ((33, 45), (33, 45)),
        ((1, 1), (5, 3)),
        ((300, 40), (9, 3)),  # more taps than a block keeps
    ],
    ids=str,
)
@pytest.mark.parametrize(("rule", "restated"), [("detectron2", by_pillow), ("mmdetection", by_opencv)])
def test_the_rules_of_other_trainers_hold_to_the_bit(rule, restated, size, target):
    image = random_image(*size, seed=5)
    bgr = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    for view in (image, bgr):
        np.testing.assert_array_equal(as_bytes(view, target, rule), restated(image, *target))


@pytest.mark.slow
@settings(max_examples=60)
@given(sides, sides, st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_the_rules_of_other_trainers_hold_at_any_size(height, width, resized_height, resized_width, seed):
    image, target = random_image(height, width, seed), (resized_height, resized_width)
    np.testing.assert_array_equal(as_bytes(image, target, "detectron2"), by_pillow(image, *target))
    np.testing.assert_array_equal(as_bytes(image, target, "mmdetection"), by_opencv(image, *target))
