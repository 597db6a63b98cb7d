"""frcnn.runtime.images.preprocess against torchvision's GeneralizedRCNNTransform."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.byte_resizes import by_opencv, by_pillow
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from frcnn.errors import ImageSizeError
from frcnn.runtime.images.canvases import OnnxCanvases
from frcnn.runtime.images.image import RGBImage, as_image
from frcnn.runtime.images.preprocess import boxes_in_image, common_canvas, onto_canvas, prepare
from frcnn.spec import Manifest, ResizeRule

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ManifestOf = Callable[..., Manifest]


def transform_of(manifest: Manifest) -> GeneralizedRCNNTransform:
    spec = manifest.model.transform
    fixed = None if spec.fixed_size is None else (spec.fixed_size[1], spec.fixed_size[0])
    return GeneralizedRCNNTransform(
        spec.min_size, spec.max_size, list(spec.image_mean), list(spec.image_std), fixed_size=fixed
    )


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 7 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def largest_difference(pixels: np.ndarray, manifest: Manifest) -> float:
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    expected, _ = transform_of(manifest)([tensor])
    prepared = prepare(as_image(pixels, name="it"), manifest)
    assert prepared.resized == tuple(expected.image_sizes[0])
    assert prepared.canvas == tuple(expected.tensors.shape[-2:])
    return float(np.abs(prepared.pixels - expected.tensors[0].numpy()).max())


@pytest.mark.parametrize(
    "size",
    [(480, 640), (640, 427), (60, 80), (1, 1), (3, 7), (500, 500), (1080, 1920), (2000, 1500), (333, 1333), (40, 3999)],
)
def test_equals_torchvision(size: tuple[int, int], manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=320, max_size=640, mean=MEAN, std=STD)
    assert largest_difference(noise(*size), manifest) <= 1e-4


@pytest.mark.parametrize("kind", ["bytes", "bgr", "floats"])
@pytest.mark.parametrize("size", [(480, 640), (50, 75), (1000, 333), (64, 70)])
@pytest.mark.parametrize(("rule", "resized_by"), [("detectron2", by_pillow), ("mmdetection", by_opencv)])
def test_equals_the_other_trainers(
    rule: ResizeRule, resized_by: Callable[..., np.ndarray], size: tuple[int, int], kind: str, manifest_of: ManifestOf
) -> None:
    manifest = manifest_of(min_size=64, max_size=100, mean=MEAN, std=STD, resize=rule)
    pixels = noise(*size)
    given = {"bytes": pixels, "bgr": pixels[:, :, ::-1].copy(), "floats": np.float32(pixels.transpose(2, 0, 1)) / 255}
    prepared = prepare(as_image(given[kind], name="it", channel_order="bgr" if kind == "bgr" else "rgb"), manifest)
    height, width = prepared.resized
    expected = (resized_by(pixels, height, width) / np.float64(255) - MEAN) / STD
    np.testing.assert_allclose(prepared.pixels[:, :height, :width], expected.transpose(2, 0, 1), rtol=0, atol=2e-6)
    assert not prepared.pixels[:, height:].any() and not prepared.pixels[:, :, width:].any()


def test_equals_torchvision_at_its_default_sizes(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=800, max_size=1333, mean=MEAN, std=STD)
    for size in ((480, 640), (1600, 1200)):
        assert largest_difference(noise(*size), manifest) <= 1e-4


@pytest.mark.parametrize("size", [(40, 20_000), (20_000, 30)])
def test_equals_torchvision_on_20000_pixels(size: tuple[int, int], manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=800, max_size=1333, mean=MEAN, std=STD)
    assert largest_difference(noise(*size), manifest) <= 1e-3


def test_a_side_never_vanishes(manifest_of: ManifestOf) -> None:
    prepared = prepare(as_image(noise(1, 20_000), name="it"), manifest_of(min_size=320, max_size=640))
    assert prepared.resized == (1, 640)
    assert prepared.canvas == (32, 640)


def test_equals_torchvision_with_a_fixed_size(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(fixed_size=(200, 304), mean=MEAN, std=STD)
    for size in ((480, 640), (100, 90)):
        assert largest_difference(noise(*size), manifest) <= 1e-4


def test_floating_images_keep_their_precision(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=320, max_size=640, mean=MEAN, std=STD)
    tensor = torch.rand(3, 300, 400, generator=torch.Generator().manual_seed(0))
    expected, _ = transform_of(manifest)([tensor])
    for image in (tensor, tensor.numpy()):
        prepared = prepare(as_image(image, name="it"), manifest)
        assert np.abs(prepared.pixels - expected.tensors[0].numpy()).max() <= 1e-5  # 1/255 would be 1.7e-2 here


def test_static_canvases_take_the_smallest_that_holds(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=64, max_size=128, canvases=((64, 128), (128, 64), (128, 128)))
    assert prepare(as_image(noise(60, 80), name="it"), manifest).canvas == (64, 128)
    assert prepare(as_image(noise(80, 60), name="it"), manifest).canvas == (128, 64)


def test_an_image_that_fits_no_canvas_is_refused(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=64, max_size=128, canvases=((64, 128),))
    with pytest.raises(ImageSizeError) as raised:
        prepare(RGBImage(pixels=noise(160, 80), name="portrait.jpg"), manifest)
    assert "portrait.jpg (160x80): resized to 128x64" in raised.value.message
    assert "64x128" in raised.value.message
    assert "--size 64x128,128x64" in raised.value.hint


def test_padding_is_zero_and_the_common_canvas_is_torchvisions(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(min_size=64, max_size=128, mean=MEAN, std=STD)
    images = [noise(60, 80), noise(80, 60)]
    prepared = [prepare(as_image(pixels, name="it"), manifest) for pixels in images]
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 for pixels in images]
    expected, _ = transform_of(manifest)(tensors)
    canvas = common_canvas(prepared, OnnxCanvases(manifest))
    together = np.stack([onto_canvas(item, canvas).pixels for item in prepared])
    np.testing.assert_allclose(together, expected.tensors.numpy(), atol=1e-4, rtol=0)
    for item in prepared:
        height, width = item.resized
        assert not item.pixels[:, height:].any()
        assert not item.pixels[:, :, width:].any()


@pytest.mark.parametrize("size", [(480, 640), (641, 427), (7, 1234)])
def test_boxes_come_back_as_torchvision_scales_them(size: tuple[int, int], manifest_of: ManifestOf) -> None:
    prepared = prepare(as_image(noise(*size), name="it"), manifest_of(min_size=320, max_size=640))
    boxes = np.random.default_rng(0).random((50, 4), dtype=np.float32) * 600
    expected = resize_boxes(torch.from_numpy(boxes), list(prepared.resized), list(size))
    np.testing.assert_array_equal(boxes_in_image(boxes, prepared), expected.numpy())
