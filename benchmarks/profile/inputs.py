"""The images of a profile: those that go on one canvas."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from frcnn.benchmarks.candidates.images import Images
from frcnn.benchmarks.report.formatting import size_text
from frcnn.errors import ImageSizeError, UsageError
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.preprocess import Placed, place
from frcnn.spec import Size, TransformSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Images that go on one canvas, in turn."""

    canvas: Size
    placed: tuple[Placed, ...]
    files: tuple[Path, ...]  # of the images, decoded anew in every run; empty where they have none
    left_out: tuple[str, ...]  # names of images that go on another canvas

    def batch(self, run: int, size: int) -> list[int]:
        """Return the images of a run, by index: each run goes on where the one before it ended."""
        return [(run * size + offset) % len(self.placed) for offset in range(size)]

    def used(self, runs: int, size: int) -> tuple[str, ...]:
        """Return the names of the images that so many runs detect in."""
        return tuple(item.image.name for item in self.placed[: runs * size])


def choose_inputs(
    images: Images, transform: TransformSpec, canvases: Canvases, *, canvas: Size | None, first: Size | None
) -> Inputs:
    """Choose the images that go on one canvas: the given (height, width), or that of the first image.

    Images that frcnn brings along fill a given canvas, and go on ``first`` where they fit none; a user's keep the size
    that the model gives them.
    """
    sizes = [transform.resized_size(*image.size) for image in images.images]
    if canvas is None and not images.files and _canvas_of(sizes[0], canvases) is None:
        canvas = first
    chosen = place(images.images[0], transform, canvases).canvas if canvas is None else _checked(canvas, canvases)
    if canvas is None:
        fitting = [index for index, size in enumerate(sizes) if _canvas_of(size, canvases) == chosen]
    else:
        sizes = sizes if images.files else [chosen] * len(sizes)
        fitting = [index for index, (height, width) in enumerate(sizes) if height <= chosen[0] and width <= chosen[1]]
    if not fitting:
        raise ImageSizeError(
            f"--size {size_text(chosen)}: none of the {len(sizes)} image(s), resized, goes on that canvas",
            hint="leave --size out: the first image's canvas is taken then",
        )
    return Inputs(
        canvas=chosen,
        placed=tuple(Placed(image=images.images[i], resized=sizes[i], canvas=chosen) for i in fitting),
        files=tuple(images.files[i] for i in fitting) if images.files else (),
        left_out=tuple(image.name for i, image in enumerate(images.images) if i not in fitting),
    )


def _canvas_of(resized: Size, canvases: Canvases) -> Size | None:
    """Return the canvas that the model chooses for a resized image; None where none holds it."""
    with suppress(ImageSizeError):
        return canvases.canvas_of(resized, name="an image")
    return None


def _checked(canvas: Size, canvases: Canvases) -> Size:
    """Return a canvas that the model takes as it is, or raise."""
    try:
        taken = canvases.canvas_of(canvas, name=f"--size {size_text(canvas)}")
    except ImageSizeError as error:
        raise UsageError(error.message, hint=error.hint) from error
    if taken != canvas:
        raise UsageError(
            f"--size: the model takes no canvas of {size_text(canvas)} (height x width)",
            hint=f"the smallest that holds it is {size_text(taken)}",
        )
    return canvas
