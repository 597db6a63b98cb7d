"""Real photographs, from scikit-learn's and scikit-image's wheels, in shapes for the narrowed families."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image
from torch import Tensor

from frcnn.spec import ModelSpec, Size

LANDSCAPE: Size = (126, 168)
PORTRAIT: Size = (200, 150)
WIDE: Size = (100, 240)
SHAPES = (LANDSCAPE, PORTRAIT, WIDE)
"""Image sizes whose canvases differ with the families' ``min_size`` and ``max_size``: 160x224, 224x160, 128x288."""


@cache
def photographs(shape: Size) -> tuple[NDArray[np.uint8], ...]:
    """Return four photographs (H, W, 3) uint8 RGB, cut from the middle to the shape's proportions and resized to it."""
    originals = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    originals += [skimage.data.astronaut(), skimage.data.chelsea()]
    return tuple(_cut(np.asarray(image), shape) for image in originals)


def tensor(image: NDArray[np.uint8]) -> Tensor:
    """Return an image as torchvision takes it: (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float().div(255)


def network_input(model: torch.nn.Module, spec: ModelSpec, shape: Size) -> tuple[Tensor, list[Size]]:
    """Return what the network sees of the photographs of a shape: (4, 3, H, W) float32 and their sizes.

    torchvision's own transform makes it. Two of the images are a little smaller than their canvas allows, so that the
    sizes in a batch differ.
    """
    tensors = [tensor(image) for image in photographs(shape)]
    tensors[1] = tensors[1][:, : shape[0] - 3, : shape[1] - 4]
    tensors[3] = tensors[3][:, : shape[0] - 1, :]
    images, _ = model.transform(tensors)
    assert images.tensors.shape[2:] == spec.transform.canvas_size(*spec.transform.resized_size(*shape))
    return images.tensors, [(int(height), int(width)) for height, width in images.image_sizes]


def _cut(image: NDArray[np.uint8], shape: Size) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = min(height / shape[0], width / shape[1])
    rows, columns = int(shape[0] * scale), int(shape[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns]
    return np.ascontiguousarray(cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.uint8)
