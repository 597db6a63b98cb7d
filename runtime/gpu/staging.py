"""Images in host memory as one plain copy to the GPU, in the order of their bytes.

The preprocessing kernel reads pixels by strides of any sign, so BGR, planar and grey images, crops and mirrored ones
need no conversion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Staged", "staged"]


@dataclass(frozen=True, slots=True)
class Staged:
    """An image's bytes in memory order, and where its pixels are among them.

    Attributes:
        pixels: the image's array with its axes in memory order, all forwards, grey ones with one channel.
        offset: byte of the red channel of the first pixel, in a copy without gaps.
        strides: bytes from a row, a column and a channel to the next, in that copy.
    """

    pixels: NDArray[np.uint8]
    offset: int
    strides: tuple[int, int, int]


def staged(pixels: NDArray[np.uint8]) -> Staged:
    """Find the order in which an image can be copied fastest.

    Args:
        pixels: ``(H, W, 3)`` uint8 with any strides.
    """
    if pixels.flags.c_contiguous:
        return Staged(pixels, 0, (3 * pixels.shape[1], 3, 1))
    if pixels.strides[2] == 0:  # grey, three times the same byte
        pixels = pixels[:, :, :1]
    order = sorted(range(3), key=lambda axis: -abs(pixels.strides[axis]))
    forwards = pixels[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in pixels.strides)]
    strides, offset, step = [0, 0, 0], 0, 1
    for axis in reversed(order):
        length = pixels.shape[axis]
        backwards = pixels.strides[axis] < 0
        strides[axis] = -step if backwards else step
        offset += step * (length - 1) if backwards else 0
        step *= length
    if pixels.shape[2] == 1:
        strides[2] = 0
    return Staged(forwards.transpose(order), offset, (strides[0], strides[1], strides[2]))
