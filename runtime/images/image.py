"""Images as callers hand them in: decoded, or in device memory already, where they are read in place."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO, UnsupportedOperation
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frcnn.errors import ImageError, KernelError, UsageError
from frcnn.plugins.cuda.arrays import view_of
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS, decode_file, decode_image
from frcnn.spec import Size

_ACCEPTED: Final = (
    "a path, the bytes of an image file, a file, a PIL image, "
    "a NumPy array (H, W, 3) RGB or (H, W) grey uint8 or (3, H, W) RGB float32 in [0, 1], "
    "or a torch tensor (3, H, W) RGB uint8 or floating in [0, 1]"
)
_ACCEPTED_ON_DEVICE: Final = "(H, W, 3) RGB or (H, W) grey uint8, or a torch tensor (3, H, W) RGB uint8"
_BATCH: Final = "a batch is a list of images: list({})"
_DEPTH: Final = "give 8 bits, white as 255"
_PLANAR: Final = "tensors are (3, H, W): tensor.permute(2, 0, 1), or of a grey one tensor.expand(3, -1, -1)"
_ALPHA: Final = "drop the alpha channel: array[:, :, :3]"

ChannelOrder = Literal["rgb", "bgr"]
"""How the channels of arrays and tensors follow each other; OpenCV's arrays are BGR."""

_TOLERANCE: Final = 1 / 255
"""How far outside [0, 1] a floating image may be: interpolation overshoots a little."""

_CUDA_DEVICES: Final = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
_LEGACY_STREAM: Final = 1  # the CUDA array interface's name of stream 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RGBImage:
    """A decoded RGB image in host memory.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, or ``(H, W, 3)`` float32 in [0, 1] (a floating image keeps its full precision).
        name: The image's name in messages: a path, or ``images[3]``.
        source: The path of the file, ``clip.mp4#12`` for a video frame, or None. ``Detections.source`` repeats it.

    Example:
        >>> image = RGBImage.open("street.jpg")
        >>> image.size
        (480, 640)
        >>> detections = detector([image])[0]
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    name: str
    source: str | None = None

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> RGBImage:
        """Read an image file as 8-bit RGB, turned upright by its EXIF orientation.

        Args:
            path: JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF or PPM, of several pages the first; HEIC with ``frcnn[heif]``.
            max_pixels: Larger files are refused before they are decoded.

        Raises:
            ImageError: The file is missing or cannot be decoded.
            ImageSizeError: It has more than ``max_pixels`` pixels.
        """
        name = os.fspath(path)
        return cls(pixels=decode_file(Path(path), max_pixels=max_pixels), name=name, source=name)

    def uint8(self) -> NDArray[np.uint8]:
        """Return the pixels as ``(H, W, 3)`` uint8, rounding a floating image."""
        if self.pixels.dtype == np.uint8:
            return self.pixels.astype(np.uint8, copy=False)
        white = np.clip(self.pixels.astype(np.float32, copy=False), 0, 1) * np.float32(255)
        rounded: NDArray[np.uint8] = (white + np.float32(0.5)).astype(np.uint8)
        return rounded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceImage:
    """An image in device memory.

    Attributes:
        pointer: address of the red byte of the first pixel.
        strides: bytes from a row, a column and a channel to the next; of any sign.
        stream: the stream that must be waited for before the image is read; 0 is the legacy default stream.
        array: the caller's array, kept alive.
    """

    pointer: int
    size: Size
    strides: tuple[int, int, int]
    stream: int
    array: Any = field(repr=False)
    name: str
    source: str | None = None


def as_image(
    image: object, *, name: str, max_pixels: int = DEFAULT_MAX_PIXELS, channel_order: ChannelOrder = "rgb"
) -> RGBImage:
    """Decode an image of any accepted kind, see ``Detector``; alpha is dropped.

    A file is turned upright by its EXIF orientation, and named by its path where it has one. A PIL image is taken as it
    stands, so that boxes are in its own pixels (``PIL.ImageOps.exif_transpose`` turns it upright). PyTorch tensors are
    recognised by their methods. ``channel_order`` is that of arrays and tensors, whose pixels are a view in RGB then.
    """
    step = -1 if channel_order == "bgr" else 1
    if isinstance(image, RGBImage):
        return _checked(image, name)
    if isinstance(image, str | os.PathLike):
        return RGBImage.open(os.fspath(image), max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return RGBImage(pixels=decode_image(image, name=name, max_pixels=max_pixels), name=name)
    if isinstance(image, np.ndarray):
        return RGBImage(pixels=_from_array(image, name)[:, :, ::step], name=name)
    if is_tensor(image):
        return RGBImage(pixels=_from_tensor(image, name)[:, :, ::step], name=name)
    if isinstance(image, bytes | bytearray | memoryview) or callable(getattr(image, "read", None)):
        return RGBImage(pixels=decode_file(_content(image, name), name=name, max_pixels=max_pixels), name=name)
    raise _refused(name, f"a {type(image).__qualname__}")


def as_device_image(array: Any, *, name: str, channel_order: ChannelOrder = "rgb") -> DeviceImage:
    """Take an array in device memory as an image, without a copy.

    It is ``(H, W, 3)`` or ``(H, W)`` grey, uint8, with any strides. A torch tensor whose first side is 3 is ``(3,
    H, W)``, as everywhere in torchvision.
    """
    try:
        view = view_of(array, name)
    except KernelError as error:
        raise ImageError(error.message, hint=error.hint) from error
    shape, expected = view.shape, f"{name}: expected {_ACCEPTED_ON_DEVICE}; got a device array"
    if view.element not in ("uint8", "|u1") or 0 in shape or not view.on_device:
        raise ImageError(f"{expected} {shape} {view.element}", hint="convert it to RGB in 0 to 255, uint8")
    planar = is_tensor(array) and len(shape) == 3 and shape[0] == 3
    rows, columns, channels = (1, 2, 0) if planar else (0, 1, 2)
    if len(shape) != 2 and (len(shape) != 3 or shape[channels] != 3):
        raise ImageError(f"{expected} {shape} {view.element}", hint=_device_shape_hint(shape))
    step = 0 if len(shape) == 2 else view.strides[channels]
    pointer, step = (view.pointer + 2 * step, -step) if channel_order == "bgr" else (view.pointer, step)
    return DeviceImage(
        pointer=pointer,
        size=(shape[rows], shape[columns]),
        strides=(view.strides[rows], view.strides[columns], step),
        stream=_stream_of(array),
        array=array,
        name=name,
    )


def is_tensor(image: object) -> bool:
    """Return whether an object looks like a PyTorch tensor."""
    return all(callable(getattr(image, method, None)) for method in ("detach", "cpu", "numpy", "is_floating_point"))


def is_device_array(image: object) -> bool:
    """Return whether an object is an array in a GPU's memory, by its protocols."""
    if hasattr(image, "__cuda_array_interface__"):
        return True
    device = getattr(image, "__dlpack_device__", None)
    return callable(device) and device()[0] in _CUDA_DEVICES


def checked_channel_order(order: ChannelOrder) -> ChannelOrder:
    """Return the order, or raise UsageError where there is none of that name."""
    if order not in get_args(ChannelOrder):
        raise UsageError(f"channel_order: expected 'rgb' or 'bgr', got {order!r}", hint="OpenCV's arrays are 'bgr'")
    return order


def _refused(name: str, got: str, hint: str = "") -> ImageError:
    return ImageError(f"{name}: expected {_ACCEPTED}; got {got}", hint=hint)


def _checked(image: RGBImage, name: str) -> RGBImage:
    """Refuse an ``RGBImage`` whose pixels have another shape or type."""
    pixels = image.pixels
    got = f"an RGBImage of {pixels.shape} {pixels.dtype}"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype not in (np.uint8, np.float32):
        raise _refused(name, got)
    if pixels.dtype == np.float32:
        _checked_floats(pixels.astype(np.float32, copy=False), name, got)
    return image


def _content(file: Any, name: str) -> BytesIO:
    """Return the bytes of an image file, from its beginning where it can go there."""
    data = file
    if hasattr(file, "read"):
        try:
            with suppress(AttributeError, UnsupportedOperation):
                file.seek(0)
            data = file.read()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise ImageError(f"{name}: the file cannot be read: {error}") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        got = f"a {type(file).__qualname__}, which gives {type(data).__qualname__}"
        raise _refused(name, got, "open the file in binary mode: open(path, 'rb'); of an asynchronous one await read()")
    return BytesIO(bytes(data))


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    has_pixels = 0 not in array.shape
    if has_pixels and array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)):
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if has_pixels and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return array
    got = f"a NumPy array {array.shape} {array.dtype}"  # slow: made only for arrays that are not taken as they are
    if not has_pixels:
        raise _refused(name, f"{got} without pixels")
    if array.dtype == np.float32 and array.ndim == 3 and array.shape[0] == 3:
        return _checked_floats(np.ascontiguousarray(array.transpose(1, 2, 0)), name, got)
    raise _refused(name, got, _array_hint(array))


def _array_hint(array: NDArray[Any]) -> str:
    first, last = (array.shape[0], array.shape[-1]) if array.ndim == 3 else (0, 0)
    if array.ndim == 4:
        return _BATCH.format("array")
    if array.ndim == 1 and array.dtype == np.uint8:
        return "an encoded image is bytes: array.tobytes()"
    if array.dtype.kind == "f":
        steps = "" if first == 3 else ".transpose(2, 0, 1)" if last == 3 else None
        return _DEPTH if steps is None else f"floating arrays are (3, H, W): array{steps}.astype(numpy.float32)"
    if array.dtype != np.uint8:
        return _DEPTH
    if last == 4:
        return _ALPHA
    return "uint8 arrays are (H, W, 3) or (H, W): array.transpose(1, 2, 0)" if first in (1, 3) else ""


def _from_tensor(tensor: Any, name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    shape = tuple(tensor.shape)
    got = f"a tensor {shape} {tensor.dtype}"
    if len(shape) != 3 or shape[0] != 3 or 0 in shape:
        raise _refused(name, got, _BATCH.format("tensor") if len(shape) == 4 else _PLANAR)
    plain = tensor.detach().cpu()
    if plain.is_floating_point():
        array = np.asarray(plain.float().numpy(), dtype=np.float32)
        return _checked_floats(np.ascontiguousarray(array.transpose(1, 2, 0)), name, got)
    array = plain.numpy()
    if array.dtype != np.uint8:
        raise _refused(name, got, _DEPTH)
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def _checked_floats(pixels: NDArray[np.float32], name: str, got: str) -> NDArray[np.float32]:
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also where either is NaN
        hint = "give RGB in [0, 1], not normalised by mean and std: the detector does that"
        if low >= 0 and 1 < high < np.inf:
            hint = "give RGB in [0, 1]: divide it by its white, which is 255 where it was 8 bits"
        raise _refused(name, f"{got} with values from {low:.4g} to {high:.4g}", hint)
    return pixels


def _device_shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return _BATCH.format("array")
    if len(shape) == 3 and shape[2] == 4:
        return _ALPHA
    if len(shape) == 3 and shape[2] == 1:
        return "a grey image is (H, W): array[:, :, 0]"
    if len(shape) == 3 and shape[0] == 3:
        return "arrays other than torch tensors are (H, W, 3): array.transpose(1, 2, 0)"
    return ""


def _stream_of(array: Any) -> int:
    """Return the stream of an array's interface; the legacy default stream where it names none."""
    interface = getattr(array, "__cuda_array_interface__", None) or {}
    stream = interface.get("stream")
    return 0 if stream in (None, _LEGACY_STREAM) else int(stream)
