"""What a profile looks at: images that go on one canvas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frcnn.benchmarks.candidates.images import Images
from frcnn.errors import ImageSizeError, UsageError
from frcnn.runtime.images.canvases import Canvases
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import Placed, place
from frcnn.spec import Size, TransformSpec

__all__ = ["Inputs", "choose_inputs"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Images that go on one canvas, in turn.

    Attributes:
        canvas: (height, width) in pixels.
        placed: the images.
        files: of the images, decoded anew in every run; empty where they have none.
        left_out: names of images that go on another canvas.
    """

    canvas: Size
    placed: tuple[Placed, ...]
    files: tuple[Path, ...]
    left_out: tuple[str, ...]

    def batch(self, run: int, size: int) -> list[int]:
        """Return the images of a run, by index: each run goes on where the one before it ended."""
        return [(run * size + offset) % len(self.placed) for offset in range(size)]

    def used(self, runs: int, size: int) -> tuple[str, ...]:
        """Return the names of the images that so many runs look at."""
        return tuple(item.image.name for item in self.placed[: runs * size])


def choose_inputs(
    images: Images, transform: TransformSpec, canvases: Canvases, *, canvas: Size | None, first: Size | None
) -> Inputs:
    """Choose the images that go on one canvas.

    Args:
        images: those of a user, or those that frcnn brings along.
        transform: the model's preprocessing.
        canvases: those that the model takes.
        canvas: (height, width); None: that of the first image. Those that frcnn brings along are resized to fill it;
            a user's keep the size that the model gives them.
        first: the canvas that the model names first, if it names any: for images that frcnn brings along and that fit
            none.

    Raises:
        ImageSizeError: no canvas holds the first image, or the one that was given holds none.
        UsageError: the model does not take the canvas that was given.
    """
    if canvas is None and first is not None and not images.files:
        canvas = None if _fits(images.images[0], transform, canvases) else first
    wanted = place(images.images[0], transform, canvases).canvas if canvas is None else _checked(canvas, canvases)
    fills = canvas is not None and not images.files
    placed: list[Placed] = []
    files: list[Path] = []
    left_out: list[str] = []
    for index, image in enumerate(images.images):
        resized = wanted if fills else transform.resized_size(*image.size)
        if not _goes_on(wanted, resized, canvases, is_given=canvas is not None):
            left_out.append(image.name)
            continue
        placed.append(Placed(image=image, resized=resized, canvas=wanted))
        files += images.files[index : index + 1]
    if not placed:
        raise ImageSizeError(
            f"--size {_by(wanted)}: none of the {len(left_out)} image(s), resized, goes on that canvas",
            hint="leave --size out: the first image's canvas is taken then",
        )
    return Inputs(canvas=wanted, placed=tuple(placed), files=tuple(files), left_out=tuple(left_out))


def _fits(image: RGBImage, transform: TransformSpec, canvases: Canvases) -> bool:
    try:
        place(image, transform, canvases)
    except ImageSizeError:
        return False
    return True


def _goes_on(canvas: Size, resized: Size, canvases: Canvases, *, is_given: bool) -> bool:
    """Say whether a resized image goes on a canvas: any that holds it where it is given, else the model's choice."""
    if is_given:
        return resized[0] <= canvas[0] and resized[1] <= canvas[1]
    try:
        return canvases.canvas_of(resized, name="an image") == canvas
    except ImageSizeError:
        return False


def _checked(canvas: Size, canvases: Canvases) -> Size:
    """Return a canvas that the model takes as it is.

    Raises:
        UsageError: it does not.
    """
    try:
        taken = canvases.canvas_of(canvas, name=f"--size {_by(canvas)}")
    except ImageSizeError as error:
        raise UsageError(error.message, hint=error.hint) from error
    if taken != canvas:
        raise UsageError(
            f"--size: the model takes no canvas of {_by(canvas)} (height x width)",
            hint=f"the smallest that holds it is {_by(taken)}",
        )
    return canvas


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
