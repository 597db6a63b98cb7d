"""Images to network input, and boxes back: torchvision's ``GeneralizedRCNNTransform`` without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime.exits import finished_before_exit
from frcnn.runtime.images.canvases import Canvases, OnnxCanvases
from frcnn.runtime.images.image import DeviceImage, RGBImage
from frcnn.runtime.images.resize import resize_affine, resize_bytes
from frcnn.spec import Manifest, Size, TransformSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """An image, the (height, width) in pixels that it is resized to, and the canvas that it is padded to."""

    image: RGBImage | DeviceImage
    resized: Size
    canvas: Size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared(Placed):
    """An image as the network sees it.

    ``pixels`` are ``(3, canvas height, canvas width)`` float32, normalised, zero right of and below the resized image.
    """

    pixels: NDArray[np.float32]


def place(image: RGBImage | DeviceImage, transform: TransformSpec, canvases: Canvases) -> Placed:
    """Choose the size that an image is resized to and the smallest canvas that holds it."""
    resized = transform.resized_size(*image.size)
    height, width = image.size
    canvas = canvases.canvas_of(resized, name=f"{image.name} ({height}x{width})")
    return Placed(image=image, resized=resized, canvas=canvas)


@finished_before_exit()
def with_pixels(placed: Placed, transform: TransformSpec) -> Prepared:
    """Resize, normalise and pad an image in host memory, on the CPU.

    Torchvision normalises first; both steps are linear, so the order matters in the rounding only. Detectron2 and
    MMDetection resize 8-bit pixels, to which a floating image is rounded.
    """
    image = placed.image
    assert isinstance(image, RGBImage)
    source = image.pixels
    if transform.resize != "torchvision":
        source = resize_bytes(image.uint8(), placed.resized, transform.resize)
    pixels = np.empty((3, *placed.canvas), np.float32)
    height, width = placed.resized
    pixels[:, height:] = 0
    pixels[:, :height, width:] = 0
    mean, std = np.asarray(transform.image_mean), np.asarray(transform.image_std)
    scale = (1 / ((255 if source.dtype == np.uint8 else 1) * std)).astype(np.float32)
    bias = (-mean / std).astype(np.float32)
    resize_affine(source, pixels[:, :height, :width], scale=scale, bias=bias)
    return Prepared(image=image, resized=placed.resized, canvas=placed.canvas, pixels=pixels)


def prepare(image: RGBImage, manifest: Manifest) -> Prepared:
    """Resize, normalise and pad an image onto the smallest canvas of a ``model.onnx`` that holds it."""
    transform = manifest.model.transform
    return with_pixels(place(image, transform, OnnxCanvases(manifest)), transform)


def common_canvas(placed: Sequence[Placed], canvases: Canvases) -> Size:
    """Return the canvas that torchvision would pad all images to."""
    largest = max(item.resized[0] for item in placed), max(item.resized[1] for item in placed)
    return canvases.canvas_of(largest, name=f"{len(placed)} images on one canvas")


def onto_canvas(placed: Placed, canvas: Size) -> Placed:
    """Return the image on another canvas that holds it."""
    if canvas == placed.canvas:
        return placed
    if not isinstance(placed, Prepared):
        return replace(placed, canvas=canvas)
    height, width = placed.resized
    pixels = np.zeros((3, *canvas), np.float32)
    pixels[:, :height, :width] = placed.pixels[:, :height, :width]
    return replace(placed, canvas=canvas, pixels=pixels)


def factors_to_image(placed: Placed) -> NDArray[np.float32]:
    """Return ``(4,)`` float32 factors that scale x1, y1, x2, y2 from canvas pixels to image pixels."""
    (height, width), (resized_height, resized_width) = placed.image.size, placed.resized
    factors: NDArray[np.float32] = np.array([width, height, width, height], np.float32)
    factors /= np.array([resized_width, resized_height, resized_width, resized_height], np.float32)
    return factors


def boxes_in_image(boxes: NDArray[np.float32], placed: Placed) -> NDArray[np.float32]:
    """Scale ``(M, 4)`` float32 ``(x1, y1, x2, y2)`` from canvas pixels to pixels of the original image.

    As torchvision's ``resize_boxes`` does: by one float32 ratio per axis.
    """
    return boxes * factors_to_image(placed)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return finite float32 values as the bits of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    half_or_less = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half_or_less) >> np.uint32(16)).astype(np.uint16)
