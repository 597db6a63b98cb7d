"""frcnn.runtime.images.image: what a caller may hand in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frcnn.errors import ImageError
from frcnn.runtime import RGBImage
from frcnn.runtime.images.image import as_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
FLOATS = PIXELS.astype(np.float32) / 255


def test_every_accepted_kind_gives_the_same_image(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(PIXELS),
        PIXELS,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        RGBImage(pixels=PIXELS, name="it"),
    ):
        raw_image = as_image(image, name="it")
        assert raw_image.size == (5, 7)
        np.testing.assert_array_equal(raw_image.pixels, PIXELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floating_tensors_stay_floating(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(FLOATS).permute(2, 0, 1).to(dtype).requires_grad_()
    image = as_image(tensor, name="it")
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels, tensor.detach().float().permute(1, 2, 0).numpy())


def test_uint8_rounds_a_floating_image() -> None:
    image = as_image(np.ascontiguousarray(FLOATS.transpose(2, 0, 1)), name="it")
    np.testing.assert_array_equal(image.pixels, FLOATS)
    np.testing.assert_array_equal(image.uint8(), PIXELS)


def test_grey_arrays_are_repeated() -> None:
    image = as_image(PIXELS[:, :, 0], name="it")
    assert (image.pixels == PIXELS[:, :, :1]).all()


def test_names(image_file: Callable[..., Path]) -> None:
    path = image_file("a.png")
    assert as_image(path, name="images[0]").name == str(path)
    assert as_image(path, name="images[0]").source == str(path)
    assert as_image(PIXELS, name="images[0]").name == "images[0]"
    assert as_image(PIXELS, name="images[0]").source is None


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (None, "a NoneType"),
        (42, "a int"),
        (b"bytes", "a bytes"),
        ([[1, 2], [3, 4]], "a list"),
        (np.zeros((5, 7, 4), np.uint8), r"\(5, 7, 4\) uint8 \(drop the alpha"),
        (np.zeros((3, 5, 7), np.uint8), r"\(3, 5, 7\) uint8 \(uint8 arrays are \(H, W, 3\)"),
        (np.zeros((3, 5, 7), np.float64), r"\(3, 5, 7\) float64 \(array.astype"),
        (np.zeros((5, 7, 3), np.float32), r"\(5, 7, 3\) float32"),
        (np.zeros((5, 7), np.uint16), r"\(5, 7\) uint16"),
        (np.zeros((1, 5, 7, 3), np.uint8), r"a batch is a list"),
        (np.zeros((0, 7, 3), np.uint8), "without pixels"),
        (torch.zeros(1, 5, 7), r"a tensor \(1, 5, 7\) torch.float32"),
        (torch.zeros(2, 3, 5, 7), "a batch is a list of images"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "torch.int64"),
        (torch.zeros(3, 0, 7), r"\(3, 0, 7\)"),
        (torch.full((3, 5, 7), 255.0), "values from 255 to 255"),
        (torch.full((3, 5, 7), -2.1), "not normalised by mean and std"),
        (torch.full((3, 5, 7), float("nan")), "values from nan to nan"),
        (np.full((3, 5, 7), np.inf, np.float32), "values from inf to inf"),
    ],
)
def test_everything_else_is_refused_in_one_line(image: object, got: str) -> None:
    with pytest.raises(ImageError, match=got) as raised:
        as_image(image, name="images[3]")
    assert raised.value.message.startswith("images[3]: expected a path")
    assert "\n" not in str(raised.value)
