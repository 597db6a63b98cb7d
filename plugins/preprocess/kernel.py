"""The preprocessing kernel: resize, normalise and pad a batch of images of different sizes in one launch.

The rule is that of ``torchvision.models.detection.transform.GeneralizedRCNNTransform``: PyTorch's bilinear
interpolation (``align_corners=False``, no antialiasing), padded with 0; or Pillow's or OpenCV's of 8-bit pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, get_args

from frcnn.errors import KernelError
from frcnn.plugins.kernel import ELEMENT_NUMBERS, Element, Kernel, check_choice
from frcnn.plugins.operator import Tensor
from frcnn.spec import ResizeRule, TransformSpec

IMAGE_COLUMNS: Final = (
    "pixels",
    "height",
    "width",
    "row_stride",
    "column_stride",
    "channel_stride",
    "resized_height",
    "resized_width",
)
"""Columns of ``sources (N, 8)`` int64: address of the red byte of the first pixel in device memory, the image's size,
strides in bytes (of any sign, so BGR and planar images need no copy), and the size before padding, which
:meth:`frcnn.spec.TransformSpec.resized_size` returns."""

_SOURCES: Final[Mapping[ResizeRule, str]] = {
    "torchvision": "preprocess/kernel.cu",
    "detectron2": "preprocess/pillow.cu",
    "mmdetection": "preprocess/opencv.cu",
}
_BLOCK: Final = (32, 8, 1)
_COLUMNS_PER_THREAD: Final = 4


def kernels(
    *,
    element: Element = "float32",
    image_mean: Sequence[float],
    image_std: Sequence[float],
    resize: ResizeRule = "torchvision",
) -> tuple[Kernel]:
    """Return the kernel: ``sources (N, 8)`` int64 -> ``images (N, 3, H, W)``; H and W are the canvas.

    No input has the canvas's size, so :meth:`Kernel.bind` takes H and W beside N. Mean and std are per channel
    (R, G, B), of images in [0, 1]; other values raise KernelError. ``resize`` is the rule, see
    ``TransformSpec``.
    """
    check_choice("element", element, get_args(Element))
    check_choice("resize", resize, _SOURCES)
    if len(image_mean) != 3 or len(image_std) != 3:
        raise KernelError(f"image_mean and image_std must have 3 values, got {len(image_mean)} and {len(image_std)}")
    if not all(map(math.isfinite, image_mean)) or not all(math.isfinite(s) and s > 0 for s in image_std):
        raise KernelError(f"image_mean must be numbers and image_std above 0, got {image_mean} and {image_std}")
    columns = _BLOCK[0] * _COLUMNS_PER_THREAD
    return (
        Kernel(
            entry="preprocess",
            plugin="",
            source=_SOURCES[resize],
            constants={
                "ELEMENT": ELEMENT_NUMBERS[element],
                "COLUMNS_PER_THREAD": _COLUMNS_PER_THREAD,
                "CHANNEL_SCALES": tuple(1 / (255 * std) for std in image_std),
                "CHANNEL_SHIFTS": tuple(-mean / std for mean, std in zip(image_mean, image_std, strict=True)),
            },
            inputs=(Tensor(name="sources", element="int64", shape=("N", "8")),),
            integers=("H", "W"),
            outputs=(Tensor(name="images", element=element, shape=("N", "3", "H", "W")),),
            grid=(f"ceil_div(W, {columns})", f"ceil_div(H, {_BLOCK[1]})", "N"),
            block=_BLOCK,
        ),
    )


def kernels_of_transform(transform: TransformSpec, element: Element) -> tuple[Kernel]:
    """Return the kernel that prepares images as a model wants them; ``element`` is the type of ``images``."""
    return kernels(
        element=element, image_mean=transform.image_mean, image_std=transform.image_std, resize=transform.resize
    )
