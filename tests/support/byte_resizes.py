"""Pillow's BILINEAR and OpenCV's INTER_LINEAR of 8-bit pixels, restated in NumPy's integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def random_bytes(height: int, width: int, seed: int = 0) -> Bytes:
    """Return an (H, W, 3) image of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_pillow(pixels: Bytes, height: int, width: int) -> Bytes:
    """Rows first, then columns, each to 8 bits: a triangle as wide as a resized pixel, and a source pixel at least."""
    rows = _pillow_axis(pixels.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return _pillow_axis(rows, height)


def _pillow_axis(pixels: Bytes, target: int) -> Bytes:
    source = pixels.shape[0]
    scale = source / target
    support = max(scale, 1.0)
    centre = ((np.arange(target) + 0.5) * scale)[:, None]
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    end = np.minimum(np.trunc(centre + support + 0.5), source)
    at = np.arange(source)[None, :]
    inside = (at >= first) & (at < end)
    triangle = np.where(inside, np.maximum(0.0, 1.0 - np.abs((at - centre + 0.5) * (1.0 / support))), 0.0)
    total = np.cumsum(triangle, axis=1)[:, -1:]  # one after the other, unlike np.sum
    weights = (triangle / total * (1 << 22) + 0.5).astype(np.int64)
    sums = np.tensordot(weights, pixels.astype(np.int64), 1)
    return np.minimum((sums + (1 << 21)) >> 22, 255).astype(np.uint8)


def by_opencv(pixels: Bytes, height: int, width: int) -> Bytes:
    """Weights of 11 bits; half the size in both directions is the mean of four pixels."""
    source = pixels.astype(np.int64)
    if pixels.shape[:2] == (2 * height, 2 * width):
        of_four = source[::2, ::2] + source[1::2, ::2] + source[::2, 1::2] + source[1::2, 1::2]
        return ((of_four + 2) >> 2).astype(np.uint8)
    low_row, high_row, first, second = (part[:, None, None] for part in _opencv_axis(pixels.shape[0], height))
    left, right, before, after = _opencv_axis(pixels.shape[1], width, weighs_edges=False)
    rows = source[:, left] * before[:, None] + source[:, right] * after[:, None]
    upper, lower = rows[low_row[:, 0, 0]] >> 4, rows[high_row[:, 0, 0]] >> 4
    return ((((first * upper) >> 16) + ((second * lower) >> 16) + 2) >> 2).astype(np.uint8)


def _opencv_axis(source: int, target: int, *, weighs_edges: bool = True) -> tuple[NDArray[np.int64], ...]:
    """Return both neighbours' indices and weights."""
    position = ((np.arange(target) + 0.5) * (1.0 / (target / source)) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    weight = position - low.astype(np.float32)
    if not weighs_edges:
        weight[(low < 0) | (low >= source - 1)] = 0
    first, second = (np.rint(part * np.float32(2048)).astype(np.int64) for part in (np.float32(1) - weight, weight))
    return np.clip(low, 0, source - 1), np.clip(low + 1, 0, source - 1), first, second
