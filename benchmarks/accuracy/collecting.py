"""Run the model, and eager beside it, over the images, and keep what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from frcnn.benchmarks.accuracy.images import Skipped, opened
from frcnn.benchmarks.accuracy.truth import TruthImage
from frcnn.console import track
from frcnn.errors import ImageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.images.image import RGBImage

__all__ = ["Answer", "Collected", "Eager", "collect"]

Eager = Callable[[RGBImage], Detections]
"""Detects in an image with eager torchvision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What was found in an image.

    Attributes:
        file: the image.
        truth: what is annotated.
        model: what the model found.
        eager: what eager found, where it was asked.
    """

    file: Path
    truth: TruthImage
    model: Detections
    eager: Detections | None


@dataclass(slots=True, kw_only=True)
class Collected:
    """What was found in all images.

    Attributes:
        answers: in the order of the annotations.
        skipped: images that cannot be used, and why.
        is_partial: whether it was interrupted.
    """

    answers: list[Answer] = field(default_factory=list)
    skipped: Skipped = field(default_factory=dict)
    is_partial: bool = False


def collect(
    detector: Detector, files: Mapping[Path, TruthImage], *, eager: Eager | None = None, batch_size: int = 1
) -> Collected:
    """Detect in all images.

    An interruption (Ctrl-C) ends it early: what was found until then is returned, marked as partial.

    Args:
        detector: the model.
        files: the annotated images by file.
        eager: what it is compared with, on the same decoded images.
        batch_size: images that the model takes at a time.
    """
    collected = Collected()
    handed_in: list[str] = []

    def images() -> Iterator[RGBImage]:
        for image in opened(files, collected.skipped):
            handed_in.append(files[Path(image.name)].file_name)
            yield image

    def unusable(position: int, error: ImageError) -> None:
        collected.skipped[handed_in[position]] = str(error)

    stream = detector.stream_images(images(), batch_size=batch_size, on_error=unusable)
    try:
        with closing(stream):
            for image, found in track(stream, total=len(files), what="detecting"):
                truth = files[Path(image.name)]
                try:
                    of_eager = None if eager is None else eager(image)
                except ImageError as error:  # left out for both: they are held against the same images
                    collected.skipped[truth.file_name] = str(error)
                    continue
                answer = Answer(file=Path(image.name), truth=truth, model=found, eager=of_eager)
                collected.answers.append(answer)
    except KeyboardInterrupt:
        collected.is_partial = True
    return collected
