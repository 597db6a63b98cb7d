"""Pairs of images and results, in order: in the calling thread, or read ahead while the network works."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from PIL import Image

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.backend import Backend, Pending, closed_error
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.image import ChannelOrder, DeviceImage, RGBImage, as_image, is_device_array, is_tensor
from frcnn.runtime.images.preprocess import Placed, common_canvas, onto_canvas
from frcnn.runtime.images.slices import Slicing, refuse_device_memory, slices_of
from frcnn.runtime.streaming.batches import results_in_order
from frcnn.runtime.streaming.prefetch import Ahead, NotReady

Result = TypeVar("Result")

OnError = Callable[[int, ImageError], None]
"""Takes the position (from 0) and the error of an image that cannot be used."""

Submit = Callable[[list[Placed]], Pending[list[Result]]]


def image_list(images: Iterable[object]) -> Iterable[object]:
    """Return the images; refuse a single one."""
    if isinstance(images, list | tuple):
        return images
    one = (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase, Image.Image, np.ndarray, RGBImage, DeviceImage)
    if isinstance(images, one) or is_tensor(images) or is_device_array(images) or not isinstance(images, Iterable):
        raise UsageError(
            f"images: expected a list (or another iterable) of images, got one {type(images).__qualname__}",
            hint="put a single image in a list: detector([image])[0]",
        )
    return images


def place_each(
    backend: Backend,
    images: Iterable[object],
    limit: int,
    order: ChannelOrder,
    ahead: bool,
    on_error: OnError | None,
    slicing: Slicing | None = None,
) -> Iterator[Placed]:
    """Place images, or their slices, on canvases one after the other; an exception names its image.

    ``on_error`` takes the unusable images, which are skipped; without it their errors are raised.
    """
    for index, image in enumerate(_noting_position(images)):
        name = f"images[{index}]"
        try:
            if slicing is None:
                items: Iterable[Placed] = [backend.place(image, name=name, max_pixels=limit, ahead=ahead, order=order)]
            else:
                items = _place_slices(backend, image, name, limit, order, ahead, slicing)
        except ImageError as error:
            if on_error is None:
                raise
            on_error(index, error)
        except Exception as error:
            name = os.fspath(image) if isinstance(image, str | os.PathLike) else name
            error.add_note(f"while preparing {name}")
            raise
        else:
            yield from items


def _place_slices(
    backend: Backend, image: object, name: str, limit: int, order: ChannelOrder, ahead: bool, slicing: Slicing
) -> Iterable[Placed]:
    """Decode and cut an image; place two slices now, one of each size, so that one that cannot be used fails here."""
    refuse_device_memory(image, name)
    if ahead and backend.on_gpu and isinstance(image, np.ndarray):  # as its backend does: the slices are views
        image = image.copy(order="K")
    decoded = as_image(image, name=name, max_pixels=limit, channel_order=order)
    placed = (backend.place(one, name=one.name, max_pixels=limit, ahead=ahead) for one in slices_of(decoded, slicing))
    return chain(list(islice(placed, 2)), placed)


def _noting_position(images: Iterable[object]) -> Iterator[object]:
    """Yield the images; add the position to an exception of the iterable itself."""
    count = 0
    try:
        for image in images:
            yield image
            count += 1
    except Exception as error:
        error.add_note(f"raised by the iterable of images, at images[{count}]")
        raise


def on_one_canvas(placed: Sequence[Placed], canvases: Canvases) -> Iterator[Placed]:
    """Pad all images to the canvas of the largest."""
    if placed:
        canvas = common_canvas(placed, canvases)
        for item in placed:
            yield onto_canvas(item, canvas)


def detect_in_batches(
    backend: Backend, placed: Iterable[Placed | NotReady], submit: Submit[Result], batch_size: int
) -> Generator[tuple[Placed, Result]]:
    """Yield images with their results, within the limits of a backend; see ``results_in_order``."""
    return results_in_order(
        placed,
        submit,
        batch_size=batch_size,
        max_at_once=backend.canvases.max_at_once,
        in_flight=backend.batches_in_flight,
    )


class Streams:
    """The open streams of a detector, each of which reads ahead in a thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: set[Ahead[Placed]] = set()

    def stream(
        self, placed: Iterator[Placed], submit: Submit[Result], batch_size: int
    ) -> Generator[tuple[Placed, Result]]:
        """Yield images with their results; two batches' worth of images are prepared ahead."""
        ahead = Ahead(placed, depth=2 * batch_size)
        self._open.add(ahead)
        try:
            with (
                closing(ahead.entries()) as entries,
                closing(detect_in_batches(self._backend, entries, submit, batch_size)) as pairs,
            ):
                yield from pairs
        finally:
            self._open.discard(ahead)

    def close(self) -> None:
        """Stop all threads; the next item of an open stream raises that the detector is closed."""
        for ahead in tuple(self._open):
            ahead.end(closed_error())


def without_images(pairs: Generator[tuple[object, Result]]) -> Generator[Result]:
    """Yield the results alone."""
    with closing(pairs):
        for _, found in pairs:
            yield found


def with_images(pairs: Generator[tuple[Placed, Result]]) -> Generator[tuple[RGBImage, Result]]:
    """Yield each image, decoded and upright, with its result."""
    with closing(pairs):
        for item, found in pairs:
            if isinstance(item.image, DeviceImage):
                raise UsageError(
                    f"stream_images: {item.image.name} lies in device memory, expected images in host memory",
                    hint="stream() takes arrays in device memory; or hand in array.cpu(), cupy.asnumpy(array)",
                )
            yield item.image, found
