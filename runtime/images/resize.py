"""Bilinear resizing by PyTorch's rule, in NumPy, and of 8-bit pixels by the rules of Detectron2 and MMDetection.

``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` without antialiasing, which is what
torchvision's detectors resize with. OpenCV and Pillow place their samples by other rules, which moves boxes by more
than a pixel.

PyTorch's source index (``area_pixel_compute_source_index`` in ATen's ``UpSample.h``) is computed in float32 with a
fused multiply-add: ``max(0, scale * (i + 0.5) - 0.5)`` rounded once. The product of two float32 numbers is exact in
float64, so computing in float64 and converting rounds the same.

The axes are interpolated one after the other, first the one that leaves fewer pixels to the other, in blocks of rows
that stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frcnn.runtime.dependencies import import_opencv
from frcnn.spec import ResizeRule, Size

Float32Array = NDArray[np.float32]
Pixels = NDArray[np.uint8] | Float32Array

_BLOCK_ELEMENTS = 65_536
"""Elements of a block of rows: 256 KB of float32, small enough for a second-level cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The samples of one axis: source indices ``before`` and ``after`` each, and the weight in [0, 1] of ``after``."""

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    weight: Float32Array

    @classmethod
    def between(cls, source: int, target: int) -> Axis:
        """Return the samples that resize ``source`` pixels to ``target`` pixels."""
        if source == target:
            index = np.arange(source, dtype=np.int64)
            return cls(before=index, after=index, weight=np.zeros(source, np.float32))
        scale = np.float64(np.float32(source) / np.float32(target))
        centre = np.arange(target, dtype=np.float64) + 0.5
        position = np.maximum((scale * centre - 0.5).astype(np.float32), np.float32(0))
        before = np.minimum(position.astype(np.int64), source - 1)
        weight = np.clip(position - before.astype(np.float32), np.float32(0), np.float32(1))
        return cls(before=before, after=np.minimum(before + 1, source - 1), weight=weight)


def resize_affine(source: Pixels, out: Float32Array, *, scale: Float32Array, bias: Float32Array) -> None:
    """Write ``resize(source) * scale + bias`` into ``out``.

    Args:
        source: ``(h, w, C)`` uint8 or float32, an image with interleaved channels.
        out: ``(C, H, W)`` float32, the resized image with planar channels; may be a view of a larger canvas.
        scale: ``(C,)`` float32 factor of each channel.
        bias: ``(C,)`` float32 summand of each channel.
    """
    if source.strides[2] < 0:  # BGR: all in the order of memory, which spares a copy
        source, out, scale, bias = source[:, :, ::-1], out[::-1], scale[::-1], bias[::-1]
    height, width, channels = source.shape
    if (height, width) == out.shape[1:]:
        for channel in range(channels):
            np.multiply(source[:, :, channel], scale[channel], out=out[channel])
            out[channel] += bias[channel]
        return
    rows = source.reshape(height, width * channels)
    vertical = Axis.between(height, out.shape[1])
    columns = _Columns.planar(Axis.between(width, out.shape[2]), channels, scale, bias)
    if height < out.shape[1]:
        _horizontal_then_vertical(rows, out, columns, vertical)
    else:
        _vertical_then_horizontal(rows, out, columns, vertical)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """One gather that interpolates an interleaved row ``x0c0 x0c1 x0c2 x1c0 …`` and separates its channels.

    All arrays are ``(C * W,)``; ``before`` and ``after`` are elements of a row.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    weight: Float32Array
    scale: Float32Array
    bias: Float32Array

    @classmethod
    def planar(cls, axis: Axis, channels: int, scale: Float32Array, bias: Float32Array) -> _Columns:
        channel = np.arange(channels, dtype=np.int64)[:, None]
        width = axis.before.size
        return cls(
            before=(axis.before * channels + channel).ravel(),
            after=(axis.after * channels + channel).ravel(),
            weight=np.tile(axis.weight, channels),
            scale=np.repeat(scale.astype(np.float32), width),
            bias=np.repeat(bias.astype(np.float32), width),
        )

    def interpolate(self, rows: Float32Array, out: Float32Array, spare: Float32Array) -> None:
        """Write the interpolated, scaled and shifted rows into ``out``; all are ``(n, …)`` float32."""
        np.take(rows, self.before, axis=1, out=out, mode="clip")
        np.take(rows, self.after, axis=1, out=spare, mode="clip")
        _blend(out, spare, self.weight)
        out *= self.scale
        out += self.bias


def _blend(before: Float32Array, after: Float32Array, weight: Float32Array) -> None:
    """Turn ``before`` into ``before + (after - before) * weight``; ``after`` is overwritten."""
    after -= before
    after *= weight
    before += after


def _block_rows(row_elements: int) -> int:
    return max(1, _BLOCK_ELEMENTS // row_elements)


def _horizontal_then_vertical(rows: Pixels, out: Float32Array, columns: _Columns, vertical: Axis) -> None:
    channels, out_height, out_width = out.shape
    height, elements = rows.shape[0], channels * out_width
    block = _block_rows(elements)
    narrowed = np.empty((height, elements), np.float32)
    first, second = np.empty((2, block, elements), np.float32)
    for start in range(0, height, block):
        stop = min(start + block, height)
        columns.interpolate(rows[start:stop].astype(np.float32), narrowed[start:stop], second[: stop - start])
    for start in range(0, out_height, block):
        stop = min(start + block, out_height)
        above, below = first[: stop - start], second[: stop - start]
        np.take(narrowed, vertical.before[start:stop], axis=0, out=above, mode="clip")
        np.take(narrowed, vertical.after[start:stop], axis=0, out=below, mode="clip")
        _blend(above, below, vertical.weight[start:stop, None])
        out[:, start:stop] = above.reshape(-1, channels, out_width).transpose(1, 0, 2)


def _vertical_then_horizontal(rows: Pixels, out: Float32Array, columns: _Columns, vertical: Axis) -> None:
    channels, out_height, out_width = out.shape
    block = _block_rows(max(rows.shape[1], channels * out_width))
    above, below = np.empty((2, block, rows.shape[1]), np.float32)
    result, spare = np.empty((2, block, channels * out_width), np.float32)
    for start in range(0, out_height, block):
        stop = min(start + block, out_height)
        count = stop - start
        above[:count] = rows[vertical.before[start:stop]]
        below[:count] = rows[vertical.after[start:stop]]
        _blend(above[:count], below[:count], vertical.weight[start:stop, None])
        columns.interpolate(above[:count], result[:count], spare[:count])
        out[:, start:stop] = result[:count].reshape(count, channels, out_width).transpose(1, 0, 2)


def resize_bytes(pixels: NDArray[np.uint8], size: Size, rule: ResizeRule) -> NDArray[np.uint8]:
    """Return ``(h, w, 3)`` uint8 pixels resized to (height, width) pixels, as Detectron2 or MMDetection resizes them.

    Detectron2's ``ResizeTransform`` uses Pillow's ``BILINEAR``, which averages where it shrinks; MMCV's ``imresize``
    OpenCV's ``INTER_LINEAR``. Neither touches an image that has the size. Pillow rounds to 8 bits between its two
    passes. Up to 12 rows came first; since 13 columns do in tall images that shrink, which moves a fifth of their bytes
    by one. A call for each axis keeps to the older order, whichever Pillow is installed.
    """
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    step = -1 if pixels.strides[2] < 0 else 1  # BGR: resized as it lies in memory, which spares a copy
    pixels = np.ascontiguousarray(pixels[:, :, ::step])
    if rule == "detectron2":
        image = Image.fromarray(pixels)
        image = image.resize((width, image.height), Image.Resampling.BILINEAR)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))[:, :, ::step]
    cv2 = import_opencv()
    resized: NDArray[np.uint8] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized[:, :, ::step]
