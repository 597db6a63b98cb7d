"""Images in, pairs of images and answers out, in order: now, or read ahead while the network works."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.backend import Backend, Pending
from frcnn.runtime.gpu.worker_pool import closed_error
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.device_images import DeviceImage
from frcnn.runtime.images.given import named, noting_position
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import Placed, common_canvas, onto_canvas
from frcnn.runtime.streaming.batches import answers_in_order
from frcnn.runtime.streaming.prefetch import Ahead, Pause

__all__ = [
    "OnError",
    "Streams",
    "Submit",
    "answered",
    "on_one_canvas",
    "placed_in_turn",
    "with_images",
    "without_images",
]

Answer = TypeVar("Answer")

OnError = Callable[[int, ImageError], None]
"""Takes the position (from 0) of an image that cannot be used, and why."""

Submit = Callable[[list[Placed]], Pending[list[Answer]]]


def placed_in_turn(
    backend: Backend, images: Iterable[object], *, max_pixels: int, ahead: bool, on_error: OnError | None = None
) -> Iterator[Placed]:
    """Put what a caller handed in onto canvases, one after the other; an exception is noted with its image.

    Args:
        backend: prepares them.
        images: the images.
        max_pixels: limit for files and PIL images.
        ahead: see ``Backend.place``.
        on_error: takes those that cannot be used, which are skipped; None: they are raised.

    Raises:
        ImageError: an image that cannot be used.
    """
    for index, image in enumerate(noting_position(images)):
        try:
            item = backend.place(image, name=f"images[{index}]", max_pixels=max_pixels, ahead=ahead)
        except ImageError as error:
            if on_error is None:
                raise
            on_error(index, error)
        except Exception as error:
            error.add_note(f"while preparing {named(image, index)}")
            raise
        else:
            yield item


def on_one_canvas(placed: Sequence[Placed], canvases: Canvases) -> Iterator[Placed]:
    """Pad all images to the canvas of the largest."""
    if placed:
        canvas = common_canvas(placed, canvases)
        for item in placed:
            yield onto_canvas(item, canvas)


def answered(
    backend: Backend, placed: Iterable[Placed | Pause], submit: Submit[Answer], batch_size: int
) -> Generator[tuple[Placed, Answer]]:
    """Answer images in batches, as many at once as are worth it; see ``answers_in_order``."""
    return answers_in_order(
        placed,
        submit,
        batch_size=batch_size,
        maximum=backend.canvases.max_at_once,
        in_flight=backend.batches_in_flight,
    )


class Streams:
    """The streams of a detector that are open: each reads ahead in a thread.

    Args:
        backend: answers.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: set[Ahead[Placed]] = set()

    def stream(
        self, placed: Iterator[Placed], submit: Submit[Answer], batch_size: int
    ) -> Generator[tuple[Placed, Answer]]:
        """Yield images with their answers; two batches' worth of images are made ahead."""
        ahead = Ahead(placed, depth=2 * batch_size)
        self._open.add(ahead)
        try:
            with (
                closing(ahead.entries()) as entries,
                closing(answered(self._backend, entries, submit, batch_size)) as pairs,
            ):
                yield from pairs
        finally:
            self._open.discard(ahead)

    def close(self) -> None:
        """Stop all threads; whoever goes on with a stream is told that the detector is closed."""
        for ahead in tuple(self._open):
            ahead.end(closed_error())


def without_images(pairs: Generator[tuple[Placed, Answer]]) -> Generator[Answer]:
    """Yield the answers alone."""
    with closing(pairs):
        for _, found in pairs:
            yield found


def with_images(pairs: Generator[tuple[Placed, Answer]]) -> Generator[tuple[RGBImage, Answer]]:
    """Yield each image, decoded and upright, with its answer.

    Raises:
        UsageError: an image in device memory, which is not brought back.
    """
    with closing(pairs):
        for item, found in pairs:
            if isinstance(item.image, DeviceImage):
                raise UsageError(
                    f"stream_images: {item.image.name} lies in device memory, expected images in host memory",
                    hint="stream() takes arrays in device memory; or hand in array.cpu(), cupy.asnumpy(array)",
                )
            yield item.image, found
