"""Run the model, and eager beside it, over the annotated images, and keep their detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from frcnn.benchmarks.accuracy.ground_truth import AnnotatedImage
from frcnn.benchmarks.accuracy.images import Skipped, open_images
from frcnn.console import track
from frcnn.errors import ImageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.images.image import RGBImage

__all__ = ["Collected", "DetectedImage", "Eager", "collect"]

Eager = Callable[[RGBImage], Detections]
"""Detects in an image with eager torchvision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectedImage:
    """The detections in one image.

    Attributes:
        file: the image.
        ground_truth: its annotations.
        model: the model's detections.
        eager: eager's, where a checkpoint was given.
    """

    file: Path
    ground_truth: AnnotatedImage
    model: Detections
    eager: Detections | None


@dataclass(slots=True, kw_only=True)
class Collected:
    """The detections in all images.

    Attributes:
        images: in the order of the annotations.
        skipped: images that cannot be used, and why.
        is_partial: whether it was interrupted.
    """

    images: list[DetectedImage] = field(default_factory=list)
    skipped: Skipped = field(default_factory=dict)
    is_partial: bool = False


def collect(
    detector: Detector, files: Mapping[Path, AnnotatedImage], *, eager: Eager | None = None, batch_size: int = 1
) -> Collected:
    """Detect in all images; Ctrl-C ends it early and keeps the detections until then, marked as partial.

    Args:
        detector: the model.
        files: the annotated images by file.
        eager: compared with the model, on the same decoded images.
        batch_size: images that the model takes at a time.
    """
    collected = Collected()
    submitted: list[str] = []

    def images() -> Iterator[RGBImage]:
        for image in open_images(files, collected.skipped):
            submitted.append(files[Path(image.name)].file_name)
            yield image

    def skip(position: int, error: ImageError) -> None:
        collected.skipped[submitted[position]] = str(error)

    stream = detector.stream_images(images(), batch_size=batch_size, on_error=skip)
    try:
        with closing(stream):
            for image, detections in track(stream, total=len(files), what="detecting"):
                file = Path(image.name)
                try:
                    reference = None if eager is None else eager(image)
                except ImageError as error:  # left out for both: they are scored on the same images
                    collected.skipped[files[file].file_name] = str(error)
                    continue
                collected.images.append(
                    DetectedImage(file=file, ground_truth=files[file], model=detections, eager=reference)
                )
    except KeyboardInterrupt:
        collected.is_partial = True
    return collected
