"""Images to network input, and boxes back: torchvision's ``GeneralizedRCNNTransform`` without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime.images.canvases import Canvases, OnnxCanvases
from frcnn.runtime.images.device_images import DeviceImage
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.resize import resize_affine
from frcnn.spec import Manifest, Size, TransformSpec

__all__ = [
    "Placed",
    "Prepared",
    "boxes_in_image",
    "common_canvas",
    "factors_to_image",
    "onto_canvas",
    "place",
    "prepare",
    "with_pixels",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """An image with its place on a canvas.

    Attributes:
        image: where it came from.
        resized: (height, width) in pixels after resizing.
        canvas: (height, width) in pixels after padding.
    """

    image: RGBImage | DeviceImage
    resized: Size
    canvas: Size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared(Placed):
    """An image as the network sees it.

    Attributes:
        pixels: (3, canvas height, canvas width) float32, normalised, zero right of and below the resized image.
    """

    pixels: NDArray[np.float32]


def place(image: RGBImage | DeviceImage, transform: TransformSpec, canvases: Canvases) -> Placed:
    """Find the size that an image is resized to, and the smallest canvas that holds it then.

    Raises:
        ImageSizeError: the resized image fits none of the model's canvases.
    """
    resized = transform.resized_size(*image.size)
    canvas = canvases.canvas_of(resized, name=f"{image.name} ({_by(image.size)})")
    return Placed(image=image, resized=resized, canvas=canvas)


def with_pixels(placed: Placed, transform: TransformSpec) -> Prepared:
    """Resize, normalise and pad an image in host memory, on the CPU.

    Torchvision normalises first and resizes then; both are linear, so the order does not matter beyond rounding.
    """
    image = placed.image
    assert isinstance(image, RGBImage)
    pixels = np.empty((3, *placed.canvas), np.float32)
    height, width = placed.resized
    pixels[:, height:] = 0
    pixels[:, :height, width:] = 0
    scale, bias = normalisation(transform, 255 if image.pixels.dtype == np.uint8 else 1)
    resize_affine(image.pixels, pixels[:, :height, :width], scale=scale, bias=bias)
    return Prepared(image=image, resized=placed.resized, canvas=placed.canvas, pixels=pixels)


def prepare(image: RGBImage, manifest: Manifest) -> Prepared:
    """Resize, normalise and pad an image onto the smallest canvas of a ``model.onnx`` that holds it.

    Raises:
        ImageSizeError: the resized image fits none of the model's canvases.
    """
    transform = manifest.model.transform
    return with_pixels(place(image, transform, OnnxCanvases(manifest)), transform)


def normalisation(transform: TransformSpec, white: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (3,) float32 factors and summands that take values in [0, ``white``] to normalised ones."""
    mean, std = np.asarray(transform.image_mean), np.asarray(transform.image_std)
    return (1 / (white * std)).astype(np.float32), (-mean / std).astype(np.float32)


def common_canvas(placed: Sequence[Placed], canvases: Canvases) -> Size:
    """Return the one canvas that torchvision would pad all these images to.

    Raises:
        ImageSizeError: the largest height and width together fit no canvas of the model.
    """
    largest = max(item.resized[0] for item in placed), max(item.resized[1] for item in placed)
    return canvases.canvas_of(largest, name=f"{len(placed)} images on one canvas")


def onto_canvas(placed: Placed, canvas: Size) -> Placed:
    """Return the image on another canvas that holds it."""
    if canvas == placed.canvas:
        return placed
    if not isinstance(placed, Prepared):
        return Placed(image=placed.image, resized=placed.resized, canvas=canvas)
    height, width = placed.resized
    pixels = np.zeros((3, *canvas), np.float32)
    pixels[:, :height, :width] = placed.pixels[:, :height, :width]
    return Prepared(image=placed.image, resized=placed.resized, canvas=canvas, pixels=pixels)


def factors_to_image(placed: Placed) -> NDArray[np.float32]:
    """Return (4,) float32: what x1, y1, x2, y2 in canvas pixels are multiplied with to be in the image's own."""
    (height, width), (resized_height, resized_width) = placed.image.size, placed.resized
    factors: NDArray[np.float32] = np.array([width, height, width, height], np.float32)
    factors /= np.array([resized_width, resized_height, resized_width, resized_height], np.float32)
    return factors


def boxes_in_image(boxes: NDArray[np.float32], placed: Placed) -> NDArray[np.float32]:
    """Scale boxes back as torchvision's ``resize_boxes`` does: by one float32 ratio per axis.

    Args:
        boxes: (M, 4) float32 x1, y1, x2, y2 in canvas pixels.
        placed: the image they were found in.

    Returns:
        (M, 4) float32 x1, y1, x2, y2 in the image's own pixels.
    """
    return boxes * factors_to_image(placed)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
