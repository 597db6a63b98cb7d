"""Pictures to network input, and boxes back: torchvision's ``GeneralizedRCNNTransform`` without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ImageSizeError
from frcnn.runtime.pictures import Picture
from frcnn.runtime.resize import resize_affine
from frcnn.spec import Manifest, Size, TransformSpec

__all__ = ["Prepared", "boxes_in_picture", "common_canvas", "onto_canvas", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A picture as the network sees it.

    Attributes:
        picture: where it came from.
        resized: (height, width) in pixels after resizing.
        canvas: (height, width) in pixels after padding.
        pixels: (3, canvas height, canvas width) float32, normalised, zero right of and below the resized picture.
    """

    picture: Picture
    resized: Size
    canvas: Size
    pixels: NDArray[np.float32]


def prepare(picture: Picture, manifest: Manifest) -> Prepared:
    """Resize, normalise and pad a picture onto the smallest canvas of the model that holds it.

    Torchvision normalises first and resizes then; both are linear, so the order does not matter beyond rounding.

    Raises:
        ImageSizeError: the resized picture fits none of the model's canvases.
    """
    transform = manifest.model.transform
    resized = transform.resized_size(*picture.size)
    canvas = canvas_of(resized, manifest, name=f"{picture.name} ({_by(picture.size)})")
    pixels = np.empty((3, *canvas), np.float32)
    height, width = resized
    pixels[:, height:] = 0
    pixels[:, :height, width:] = 0
    scale, bias = normalisation(transform, 255 if picture.pixels.dtype == np.uint8 else 1)
    resize_affine(picture.pixels, pixels[:, :height, :width], scale=scale, bias=bias)
    return Prepared(picture=picture, resized=resized, canvas=canvas, pixels=pixels)


def normalisation(transform: TransformSpec, white: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (3,) float32 factors and summands that take values in [0, ``white``] to normalised ones."""
    mean, std = np.asarray(transform.image_mean), np.asarray(transform.image_std)
    return (1 / (white * std)).astype(np.float32), (-mean / std).astype(np.float32)


def canvas_of(resized: Size, manifest: Manifest, *, name: str) -> Size:
    """Return the canvas of a resized picture.

    Args:
        resized: its (height, width) in pixels.
        manifest: the model's.
        name: what the message calls the picture.

    Raises:
        ImageSizeError: no canvas of the model holds it.
    """
    canvas = manifest.canvas_for(resized)
    if canvas is not None:
        return canvas
    needed = _by(manifest.model.transform.canvas_size(*resized))
    taken = ", ".join(_by(canvas) for canvas in manifest.canvases or ())
    raise ImageSizeError(
        f"{name}: resized to {_by(resized)} it fits none of the model's canvases {taken} (height x width)",
        hint=f"export with --size {taken.replace(' ', '')},{needed}, or without --size for pictures of any shape",
    )


def common_canvas(prepared: list[Prepared], manifest: Manifest) -> Size:
    """Return the one canvas that torchvision would pad all these pictures to.

    Raises:
        ImageSizeError: the largest height and width together fit no canvas of the model.
    """
    largest = max(item.resized[0] for item in prepared), max(item.resized[1] for item in prepared)
    return canvas_of(largest, manifest, name=f"{len(prepared)} pictures on one canvas")


def onto_canvas(prepared: Prepared, canvas: Size) -> Prepared:
    """Return the picture on another canvas that holds it."""
    if canvas == prepared.canvas:
        return prepared
    height, width = prepared.resized
    pixels = np.zeros((3, *canvas), np.float32)
    pixels[:, :height, :width] = prepared.pixels[:, :height, :width]
    return Prepared(picture=prepared.picture, resized=prepared.resized, canvas=canvas, pixels=pixels)


def boxes_in_picture(boxes: NDArray[np.float32], prepared: Prepared) -> NDArray[np.float32]:
    """Scale boxes back as torchvision's ``resize_boxes`` does: by one float32 ratio per axis.

    Args:
        boxes: (M, 4) float32 x1, y1, x2, y2 in canvas pixels.
        prepared: the picture they were found in.

    Returns:
        (M, 4) float32 x1, y1, x2, y2 in the picture's own pixels.
    """
    vertical, horizontal = (
        np.float32(own) / np.float32(resized)
        for own, resized in zip(prepared.picture.size, prepared.resized, strict=True)
    )
    return boxes * np.array([horizontal, vertical, horizontal, vertical], np.float32)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
