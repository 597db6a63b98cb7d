"""frcnn.runtime.images.image: the accepted kinds of images, in host and device memory."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO, StringIO, UnsupportedOperation
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.fake_device import DeviceArray
from support.strided import BASE, VIEWS

from frcnn.errors import ImageError, ImageSizeError
from frcnn.runtime import RGBImage
from frcnn.runtime.images.image import DeviceImage, as_device_image, as_image, is_device_array

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
FLOATS = PIXELS.astype(np.float32) / 255


def encoded() -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


PNG = encoded()


def closed(image: Any, before: Callable[[Any], object] = lambda _: None) -> Any:
    before(image)
    image.close()
    return image


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
        decoded = as_image(image, name="it")
        assert decoded.size == (5, 7)
        np.testing.assert_array_equal(decoded.pixels, PIXELS)


def test_the_bytes_of_a_file_are_the_file(tmp_path: Path) -> None:
    """Turned by their EXIF orientation, and read from the beginning, wherever the file stands."""
    path, exif = tmp_path / "turned.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    expected, data = np.rot90(PIXELS, -1), path.read_bytes()
    at_its_end = BytesIO()
    at_its_end.write(data)
    with path.open("rb") as file, SpooledTemporaryFile() as uploaded, Pipe(data) as pipe:
        uploaded.write(data)
        for image in (
            data,
            bytearray(data),
            memoryview(data),
            memoryview(data[::-1])[::-1],
            at_its_end,
            file,
            uploaded,
            pipe,
        ):
            found = as_image(image, name="images[3]")
            np.testing.assert_array_equal(found.pixels, expected)
            assert (found.name, found.source) == ("images[3]", None)


class Pipe(BytesIO):
    """Cannot go back."""

    def seek(self, *_: int) -> int:
        raise UnsupportedOperation("seek")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "images\\[3\\]: the file is empty"),
        (b"junk" * 9, "images\\[3\\]: not an image in a format"),
        (PNG[:60], "images\\[3\\]: the image cannot be decoded"),
        (closed(BytesIO(PNG)), "images\\[3\\]: the file cannot be read: I/O operation on closed"),
    ],
)
def test_bytes_that_are_no_image_are_refused(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        as_image(image, name="images[3]")


def test_bytes_are_held_to_the_limit_of_pixels() -> None:
    with pytest.raises(ImageSizeError, match="more than the limit of 34"):
        as_image(PNG, name="it", max_pixels=34)


@pytest.mark.parametrize(
    "image",
    [
        closed(Image.open(BytesIO(PNG))),
        closed(Image.fromarray(PIXELS)),
        closed(Image.open(BytesIO(PNG)), lambda image: image.load()),
        closed(Image.open(file := BytesIO(PNG)), lambda _: file.close()),
    ],
    ids=["before it was read", "of an array", "after it was read", "with its file"],
)
def test_a_closed_pil_image_is_not_called_damaged(image: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"it: the PIL image is closed \(hand in a copy"):
        as_image(image, name="it")


def test_a_damaged_pil_image_is_not_called_closed() -> None:
    with pytest.raises(ImageError, match="it: the image cannot be decoded"):
        as_image(Image.open(BytesIO(PNG[:80])), name="it")


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
    for grey in (PIXELS[:, :, 0], PIXELS[:, :, :1]):
        image = as_image(grey, name="it")
        assert image.size == (5, 7)
        assert (image.pixels == PIXELS[:, :, :1]).all()


def test_an_image_is_named_by_its_path_or_position(image_file: Callable[..., Path]) -> None:
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
        ([[1, 2], [3, 4]], "a list"),
        (np.zeros((5, 7, 4), np.uint8), r"\(5, 7, 4\) uint8 \(drop the alpha"),
        (np.zeros((3, 5, 7), np.uint8), r"\(3, 5, 7\) uint8 \(uint8 arrays are \(H, W, 3\)"),
        (np.zeros((1, 5, 7), np.uint8), r"array.transpose\(1, 2, 0\)"),
        (np.zeros((5, 7, 2), np.uint8), r"\(5, 7, 2\) uint8$"),
        (np.zeros(99, np.uint8), r"\(99,\) uint8 \(an encoded image is bytes: array.tobytes"),
        (np.zeros((3, 5, 7), np.float64), r"\(3, 5, 7\) float64 \(floating arrays are \(3, H, W\): array.astype"),
        (np.zeros((5, 7, 3), np.float32), r"array.transpose\(2, 0, 1\).astype"),
        (np.zeros((5, 7), np.float32), "give 8 bits"),
        (np.zeros((5, 7, 3), np.uint16), r"\(5, 7, 3\) uint16 \(give 8 bits, white as 255"),
        (np.zeros((5, 7), bool), "give 8 bits"),
        (np.zeros((1, 5, 7, 3), np.uint8), r"a batch is a list"),
        (np.zeros((0, 7, 3), np.uint8), "without pixels"),
        (torch.zeros(1, 5, 7), r"a tensor \(1, 5, 7\) torch.float32 .*tensor.expand"),
        (torch.zeros(5, 7), r"tensor.expand\(3, -1, -1\)"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), r"\(5, 7, 3\) torch.uint8 .*tensor.permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 5, 7), "a batch is a list of images"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "torch.int64 .give 8 bits"),
        (torch.zeros(3, 0, 7), r"\(3, 0, 7\)"),
        (torch.full((3, 5, 7), 255.0), "values from 255 to 255 .*divide it by its white"),
        (torch.full((3, 5, 7), -2.1), "not normalised by mean and std"),
        (torch.full((3, 5, 7), float("nan")), "values from nan to nan"),
        (np.full((3, 5, 7), np.inf, np.float32), "values from inf to inf"),
        (StringIO("text"), r"a StringIO, which gives str \(open the file in binary mode"),
    ],
)
def test_everything_else_is_refused_on_one_line(image: object, got: str) -> None:
    with pytest.raises(ImageError, match=got) as raised:
        as_image(image, name="images[3]")
    assert raised.value.message.startswith("images[3]: expected a path")
    assert "\n" not in str(raised.value)


def array_at(image: DeviceImage) -> np.ndarray:
    """Return the pixels that the kernel would read."""
    height, width = image.size
    rows, columns, channels = np.ogrid[:height, :width, :3]
    where = rows * image.strides[0] + columns * image.strides[1] + channels * image.strides[2]
    low, high = int(where.min()), int(where.max())
    memory = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * (high - low + 1)).from_address(image.pointer + low))
    return memory[where - low]


@pytest.mark.parametrize("name", [name for name in VIEWS if not name.startswith("grey")])
def test_a_device_array_is_read_in_place(name: str) -> None:
    pixels = VIEWS[name]()
    image = as_device_image(DeviceArray(pixels), name="it")
    assert image.size == pixels.shape[:2]
    np.testing.assert_array_equal(array_at(image), pixels)


def test_a_grey_device_array_repeats_its_channel() -> None:
    image = as_device_image(DeviceArray(BASE[:, ::2, 1]), name="it")
    np.testing.assert_array_equal(array_at(image), np.repeat(BASE[:, ::2, 1, None], 3, axis=2))


class Tensor(DeviceArray):
    """Looks like a torch tensor."""

    detach = cpu = numpy = lambda self: self

    def is_floating_point(self) -> bool:
        return self.array.dtype.kind == "f"


def test_a_device_tensor_is_planar_if_its_first_side_is_3() -> None:
    for tensor in (Tensor(BASE.transpose(2, 0, 1)), Tensor(BASE)):
        np.testing.assert_array_equal(array_at(as_device_image(tensor, name="it")), BASE)
    both = Tensor(BASE[:3].transpose(2, 0, 1)[:, :, :3])
    np.testing.assert_array_equal(array_at(as_device_image(both, name="it")), BASE[:3, :3])


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (DeviceArray(np.zeros((3, 8, 9), np.uint8)), "array.transpose"),
        (Tensor(np.zeros((4, 8, 9), np.uint8)), ""),
        (DeviceArray(np.zeros((8, 9, 4), np.uint8)), "alpha"),
        (DeviceArray(np.zeros((8, 9, 1), np.uint8)), "array[:, :, 0]"),
        (DeviceArray(np.zeros((2, 8, 9, 3), np.uint8)), "list"),
        (DeviceArray(np.zeros((8, 9, 3), np.float32)), "uint8"),
        (DeviceArray(np.zeros((0, 9, 3), np.uint8)), ""),
        (DeviceArray(np.zeros((8, 9, 3), np.uint8), mask=True), ""),
    ],
)
def test_other_device_arrays_are_refused(array: DeviceArray, hint: str) -> None:
    with pytest.raises(ImageError, match="it") as raised:
        as_device_image(array, name="it")
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("stream", "expected"), [({}, 0), ({"stream": None}, 0), ({"stream": 1}, 0), ({"stream": 77}, 77)]
)
def test_the_stream_of_a_device_array_comes_from_its_interface(stream: dict[str, int], expected: int) -> None:
    assert as_device_image(DeviceArray(BASE, **stream), name="it").stream == expected


def test_only_device_arrays_are_recognised_as_such() -> None:
    assert not is_device_array(BASE)
    assert not is_device_array("a.jpg")
    assert is_device_array(DeviceArray(BASE))
