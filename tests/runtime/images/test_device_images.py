"""frcnn.runtime.images.device_images: pixels are found by strides, whatever way they lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.fake_device import DeviceArray

from frcnn.errors import ImageError
from frcnn.runtime.images.device_images import DeviceImage, device_image, is_device_array, staged

BASE = np.random.default_rng(1).integers(0, 256, (12, 14, 3), dtype=np.uint8)

VIEWS: dict[str, Callable[[], np.ndarray]] = {
    "as written": lambda: BASE,
    "bgr": lambda: BASE[:, :, ::-1],
    "crop": lambda: BASE[2:9, 3:11],
    "upside down": lambda: BASE[::-1],
    "mirrored": lambda: BASE[:, ::-1],
    "turned by half": lambda: BASE[::-1, ::-1, ::-1],
    "every second": lambda: BASE[::2, 1::3],
    "planar": lambda: np.ascontiguousarray(BASE.transpose(2, 0, 1)).transpose(1, 2, 0),
    "transposed": lambda: BASE.transpose(1, 0, 2),
    "grey": lambda: np.broadcast_to(BASE[:, :, 0, None], (12, 14, 3)),
    "grey, mirrored": lambda: np.broadcast_to(BASE[:, ::-1, 0, None], (12, 14, 3)),
    "one pixel": lambda: BASE[:1, :1],
    "one row of bgr": lambda: BASE[:1, :, ::-1],
}


@pytest.mark.parametrize("name", VIEWS)
def test_staged_bytes_are_found_again(name: str) -> None:
    pixels = VIEWS[name]()
    stage = staged(pixels)
    assert all(step >= 0 for step in stage.pixels.strides)
    copied = np.ascontiguousarray(stage.pixels).ravel()
    height, width, _ = pixels.shape
    rows, columns, channels = np.ogrid[:height, :width, :3]
    at = stage.offset + rows * stage.strides[0] + columns * stage.strides[1] + channels * stage.strides[2]
    np.testing.assert_array_equal(copied[at], pixels)
    assert copied.size == (pixels.size // 3 if name.startswith("grey") else pixels.size)


def array_at(image: DeviceImage) -> np.ndarray:
    """Return what the kernel would read."""
    height, width = image.size
    rows, columns, channels = np.ogrid[:height, :width, :3]
    where = rows * image.strides[0] + columns * image.strides[1] + channels * image.strides[2]
    low, high = int(where.min()), int(where.max())
    memory = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * (high - low + 1)).from_address(image.pointer + low))
    return memory[where - low]


@pytest.mark.parametrize("name", [name for name in VIEWS if not name.startswith("grey")])
def test_a_device_array_is_read_where_it_lies(name: str) -> None:
    pixels = VIEWS[name]()
    image = device_image(DeviceArray(pixels), name="it")
    assert image.size == pixels.shape[:2]
    np.testing.assert_array_equal(array_at(image), pixels)


def test_grey_is_three_times_the_same() -> None:
    image = device_image(DeviceArray(BASE[:, ::2, 1]), name="it")
    np.testing.assert_array_equal(array_at(image), np.repeat(BASE[:, ::2, 1, None], 3, axis=2))


class Tensor(DeviceArray):
    """What looks like a torch tensor."""

    detach = cpu = numpy = lambda self: self

    def is_floating_point(self) -> bool:
        return self.array.dtype.kind == "f"


def test_a_tensor_is_planar_where_its_first_side_is_3() -> None:
    for tensor in (Tensor(BASE.transpose(2, 0, 1)), Tensor(BASE)):
        np.testing.assert_array_equal(array_at(device_image(tensor, name="it")), BASE)
    both = Tensor(BASE[:3].transpose(2, 0, 1)[:, :, :3])
    np.testing.assert_array_equal(array_at(device_image(both, name="it")), BASE[:3, :3])


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (DeviceArray(np.zeros((3, 8, 9), np.uint8)), "array.transpose"),
        (Tensor(np.zeros((4, 8, 9), np.uint8)), ""),
        (DeviceArray(np.zeros((8, 9, 4), np.uint8)), "alpha"),
        (DeviceArray(np.zeros((2, 8, 9, 3), np.uint8)), "list"),
        (DeviceArray(np.zeros((8, 9, 3), np.float32)), "uint8"),
        (DeviceArray(np.zeros((0, 9, 3), np.uint8)), ""),
        (DeviceArray(np.zeros((8, 9, 3), np.uint8), mask=True), ""),
    ],
)
def test_others_are_refused(array: DeviceArray, hint: str) -> None:
    with pytest.raises(ImageError, match="it") as raised:
        device_image(array, name="it")
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("stream", "expected"), [({}, 0), ({"stream": None}, 0), ({"stream": 1}, 0), ({"stream": 77}, 77)]
)
def test_the_stream_is_the_one_that_the_array_names(stream: dict[str, int], expected: int) -> None:
    assert device_image(DeviceArray(BASE, **stream), name="it").stream == expected


def test_arrays_of_the_host_are_none_of_a_device() -> None:
    assert not is_device_array(BASE)
    assert not is_device_array("a.jpg")
    assert is_device_array(DeviceArray(BASE))
