"""Images that are in device memory already, and how images of host memory go up: bytes as they lie.

The preprocessing kernel reads pixels by strides of any sign, so nothing is turned round on the way: BGR, planar and
grey images, crops and mirrored ones are one copy, or none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ImageError, KernelError
from frcnn.plugins.cuda.arrays import ArrayView, view_of
from frcnn.runtime.images.image import is_tensor
from frcnn.spec import Size

__all__ = ["DeviceImage", "Staged", "device_image", "is_device_array", "staged"]

_CUDA_DEVICES: Final = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
_LEGACY_STREAM: Final = 1  # the CUDA array interface's name of stream 0
_EXPECTED: Final = "(H, W, 3) or (H, W) uint8, or a torch tensor (3, H, W) uint8"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceImage:
    """An image in device memory, used where it lies.

    Attributes:
        pointer: address of the red byte of the first pixel.
        size: (height, width) in pixels.
        strides: bytes from a row, a column and a channel to the next.
        stream: what must be waited for before it is read; 0 is the legacy default stream.
        array: the caller's array, kept alive.
        name: what messages call it.
        source: None; results carry it.
    """

    pointer: int
    size: Size
    strides: tuple[int, int, int]
    stream: int
    array: Any = field(repr=False)
    name: str
    source: str | None = None


def is_device_array(image: object) -> bool:
    """Say whether an object is an array in a GPU's memory, by its protocols."""
    if hasattr(image, "__cuda_array_interface__"):
        return True
    device = getattr(image, "__dlpack_device__", None)
    return callable(device) and device()[0] in _CUDA_DEVICES


def device_image(array: Any, *, name: str) -> DeviceImage:
    """Take an array in device memory for an image, without a copy.

    Args:
        array: RGB, (H, W, 3) or grey (H, W) uint8, with any strides. A torch tensor is taken as (3, H, W) where its
            first side is 3, as everywhere in torchvision.
        name: what messages call it.

    Raises:
        ImageError: another type or shape, or an array that cannot be looked at.
        MissingDependencyError: it speaks DLPack alone and ``cuda-core`` is not installed, or is older than 1.0.
    """
    try:
        view = view_of(array, name)
    except KernelError as error:
        raise ImageError(error.message, hint=error.hint) from error
    if view.element not in ("uint8", "|u1") or 0 in view.shape or not view.on_device:
        raise ImageError(
            f"{name}: expected {_EXPECTED}; got {_text(view)}", hint="convert it to RGB in 0 to 255, uint8"
        )
    rows, columns, channels = 0, 1, 2
    if is_tensor(array) and len(view.shape) == 3 and view.shape[0] == 3:
        channels, rows, columns = 0, 1, 2
    if len(view.shape) == 2:
        strides = (view.strides[0], view.strides[1], 0)
    elif len(view.shape) == 3 and view.shape[channels] == 3:
        strides = (view.strides[rows], view.strides[columns], view.strides[channels])
    else:
        raise ImageError(f"{name}: expected {_EXPECTED}; got {_text(view)}", hint=_shape_hint(view.shape))
    size = view.shape[rows], view.shape[columns]
    return DeviceImage(
        pointer=view.pointer, size=size, strides=strides, stream=_stream_of(array), array=array, name=name
    )


def _text(view: ArrayView) -> str:
    return f"a device array {view.shape} {view.element}"


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "a batch is a list of images: list(array)"
    if len(shape) == 3 and shape[2] == 4:
        return "drop the alpha channel: array[:, :, :3]"
    if len(shape) == 3 and shape[0] == 3:
        return "arrays other than torch tensors are (H, W, 3): array.transpose(1, 2, 0)"
    return ""


def _stream_of(array: Any) -> int:
    """Return the stream that an array's interface names; the legacy default stream where it names none."""
    interface = getattr(array, "__cuda_array_interface__", None) or {}
    stream = interface.get("stream")
    return 0 if stream in (None, _LEGACY_STREAM) else int(stream)


@dataclass(frozen=True, slots=True)
class Staged:
    """An image's bytes in the order in which they lie, and how to find pixels among them.

    Attributes:
        pixels: the image's array with its axes in memory order, none of them backwards, grey ones with one channel.
        offset: where the red byte of the first pixel is, in a copy without gaps.
        strides: bytes from a row, a column and a channel to the next, in that copy.
    """

    pixels: NDArray[np.uint8]
    offset: int
    strides: tuple[int, int, int]


def staged(pixels: NDArray[np.uint8]) -> Staged:
    """Find the order in which an image can be copied fastest.

    Args:
        pixels: (H, W, 3) uint8 with any strides.
    """
    if pixels.flags.c_contiguous:
        width = pixels.shape[1]
        return Staged(pixels, 0, (3 * width, 3, 1))
    if pixels.strides[2] == 0:  # grey, three times the same byte
        pixels = pixels[:, :, :1]
    order = sorted(range(3), key=lambda axis: -abs(pixels.strides[axis]))
    turned = pixels[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in pixels.strides)]
    strides, offset, step = [0, 0, 0], 0, 1
    for axis in reversed(order):
        length = pixels.shape[axis]
        backwards = pixels.strides[axis] < 0
        strides[axis] = -step if backwards else step
        offset += step * (length - 1) if backwards else 0
        step *= length
    if pixels.shape[2] == 1:
        strides[2] = 0
    return Staged(turned.transpose(order), offset, (strides[0], strides[1], strides[2]))
