"""What callers hand in where images are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from frcnn.errors import UsageError
from frcnn.runtime.images.device_images import DeviceImage, is_device_array
from frcnn.runtime.images.image import RGBImage, is_tensor

__all__ = ["listed", "named", "noting_position"]


def listed(images: Iterable[object]) -> Iterable[object]:
    """Return the images.

    Raises:
        UsageError: a single image where a list of them belongs.
    """
    if isinstance(images, list | tuple):
        return images
    single = isinstance(images, str | bytes | os.PathLike | Image.Image | np.ndarray | RGBImage | DeviceImage)
    single = single or is_tensor(images) or is_device_array(images)
    if single or not isinstance(images, Iterable):
        raise UsageError(
            f"images: expected a list (or another iterable) of images, got one {type(images).__qualname__}",
            hint="put a single image in a list: detector([image])[0]",
        )
    return images


def named(image: object, index: int) -> str:
    """Return what to call an image in a message: its path, or where it stands."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"images[{index}]"


def noting_position(images: Iterable[object]) -> Iterator[object]:
    """Yield the images; an exception of the iterable itself is noted with how far it came."""
    count = 0
    try:
        for image in images:
            yield image
            count += 1
    except Exception as error:
        error.add_note(f"raised by the iterable of images, at images[{count}]")
        raise
