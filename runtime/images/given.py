"""What callers hand in where pictures are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from frcnn.errors import UsageError
from frcnn.runtime.images.device_images import DevicePicture, is_device_array
from frcnn.runtime.images.image import Picture, is_tensor

__all__ = ["listed", "named", "noting_position"]


def listed(images: Iterable[object]) -> Iterable[object]:
    """Return the pictures.

    Raises:
        UsageError: a single picture where a list of them belongs.
    """
    if isinstance(images, list | tuple):
        return images
    single = isinstance(images, str | bytes | os.PathLike | Image.Image | np.ndarray | Picture | DevicePicture)
    single = single or is_tensor(images) or is_device_array(images)
    if single or not isinstance(images, Iterable):
        raise UsageError(
            f"images: expected a list (or another iterable) of pictures, got one {type(images).__qualname__}",
            hint="put a single picture in a list: detector([picture])[0]",
        )
    return images


def named(image: object, index: int) -> str:
    """Return what to call a picture in a message: its path, or where it stands."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"images[{index}]"


def noting_position(images: Iterable[object]) -> Iterator[object]:
    """Yield the pictures; an exception of the iterable itself is noted with how far it came."""
    count = 0
    try:
        for image in images:
            yield image
            count += 1
    except Exception as error:
        error.add_note(f"raised by the iterable of pictures, at images[{count}]")
        raise
