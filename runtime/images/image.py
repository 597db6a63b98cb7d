"""A decoded image, and what callers may hand in as one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frcnn.errors import ImageError
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS, decode_file, decode_image
from frcnn.spec import Size

__all__ = ["ACCEPTED", "Image", "as_image"]

Layout = Literal["hwc", "chw"]

ACCEPTED = (
    "a path, a PIL image, a NumPy array (H, W, 3) or (H, W) uint8 or (3, H, W) float32 in [0, 1], "
    "or a torch tensor (3, H, W) uint8 or floating in [0, 1]"
)

_TOLERANCE = 1 / 255
"""How far outside [0, 1] a floating image may be: interpolation overshoots a little."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RGBImage:
    """A decoded RGB image.

    Attributes:
        pixels: (H, W, 3) uint8, or (H, W, 3) float32 in [0, 1] (a floating image keeps its full precision).
        name: what messages call it: a path, or ``images[3]``.
        source: where it came from (a path, ``clip.mp4#12`` for a video's frame), or None; results carry it.
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
        """Read an image file upright, as 8-bit RGB.

        Raises:
            ImageError: it is missing or cannot be decoded.
            ImageSizeError: it has more than ``max_pixels`` pixels.
        """
        name = os.fspath(path)
        return cls(pixels=decode_file(Path(path), max_pixels=max_pixels), name=name, source=name)

    def uint8(self) -> NDArray[np.uint8]:
        """Return the image as (H, W, 3) uint8, rounding a floating one."""
        if self.pixels.dtype == np.uint8:
            return self.pixels.astype(np.uint8, copy=False)
        white = np.clip(self.pixels.astype(np.float32, copy=False), 0, 1) * np.float32(255)
        rounded: NDArray[np.uint8] = (white + np.float32(0.5)).astype(np.uint8)
        return rounded


def as_image(image: object, *, name: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> RGBImage:
    """Turn what a caller handed in into an image.

    A file is turned upright by its EXIF orientation. A PIL image is taken as it stands, so that boxes are in its own
    pixels (``PIL.ImageOps.exif_transpose`` turns it upright). Alpha is dropped.

    Args:
        image: one of ``ACCEPTED``, or a ``Image``. PyTorch tensors are known by their methods; torch is not
            imported.
        name: what messages call it; a file is called by its path instead.
        max_pixels: limit for files and PIL images, checked before decoding.

    Raises:
        ImageError: anything else; the message says expected and got.
    """
    if isinstance(image, RGBImage):
        return _checked(image, name)
    if isinstance(image, str | os.PathLike):
        return RGBImage.open(os.fspath(image), max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return RGBImage(pixels=decode_image(image, name=name, max_pixels=max_pixels), name=name)
    if isinstance(image, np.ndarray):
        return RGBImage(pixels=_from_array(image, name), name=name)
    if is_tensor(image):
        return RGBImage(pixels=_from_tensor(image, name), name=name)
    raise _refused(name, f"a {type(image).__qualname__}")


def _checked(image: RGBImage, name: str) -> RGBImage:
    """Refuse a ``Image`` that its maker put something else into."""
    pixels = image.pixels
    got = f"a Image of {pixels.shape} {pixels.dtype}"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype not in (np.uint8, np.float32):
        raise _refused(name, got)
    if pixels.dtype == np.float32:
        _checked_floats(pixels.astype(np.float32, copy=False), name, got)
    return image


def is_tensor(image: object) -> bool:
    """Say whether an object looks like a PyTorch tensor."""
    return all(callable(getattr(image, method, None)) for method in ("detach", "cpu", "numpy", "is_floating_point"))


def _refused(name: str, got: str, hint: str = "") -> ImageError:
    return ImageError(f"{name}: expected {ACCEPTED}; got {got}", hint=hint)


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    has_pixels = 0 not in array.shape
    if has_pixels and array.dtype == np.uint8 and array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if has_pixels and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return array
    got = f"a NumPy array {array.shape} {array.dtype}"  # costs more than all else here: not for what is taken as it is
    if not has_pixels:
        raise _refused(name, f"{got} without pixels")
    if array.dtype == np.float32 and array.ndim == 3 and array.shape[0] == 3:
        return _checked_floats(np.ascontiguousarray(array.transpose(1, 2, 0)), name, got)
    raise _refused(name, got, _array_hint(array))


def _array_hint(array: NDArray[Any]) -> str:
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4:
        return "drop the alpha channel: array[:, :, :3]"
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[0] == 3:
        return "uint8 arrays are (H, W, 3): array.transpose(1, 2, 0)"
    if array.ndim == 3 and array.shape[0] == 3 and array.dtype.kind == "f":
        return "array.astype(numpy.float32)"
    if array.ndim == 4:
        return "a batch is a list of images: list(array)"
    return ""


def _from_tensor(tensor: Any, name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    got = f"a tensor {tuple(tensor.shape)} {tensor.dtype}"
    if len(tensor.shape) != 3 or tensor.shape[0] != 3 or 0 in tuple(tensor.shape):
        hint = "a batch is a list of images: list(tensor)" if len(tensor.shape) == 4 else ""
        raise _refused(name, got, hint)
    plain = tensor.detach().cpu()
    if plain.is_floating_point():
        array = np.asarray(plain.float().numpy(), dtype=np.float32)
        return _checked_floats(np.ascontiguousarray(array.transpose(1, 2, 0)), name, got)
    array = plain.numpy()
    if array.dtype != np.uint8:
        raise _refused(name, got)
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def _checked_floats(pixels: NDArray[np.float32], name: str, got: str) -> NDArray[np.float32]:
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also where either is NaN
        raise _refused(
            name,
            f"{got} with values from {low:.4g} to {high:.4g}",
            "give RGB in [0, 1], not normalised by mean and std: the detector does that",
        )
    return pixels
