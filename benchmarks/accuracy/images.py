"""Decode the annotated images, and keep the detections of the model and of eager in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from frcnn.console import track
from frcnn.errors import ImageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.dataset.annotations import AnnotatedImage
from frcnn.runtime.dataset.files import Skipped
from frcnn.runtime.images.image import RGBImage

Eager = Callable[[RGBImage], Detections]
"""Detects in an image with eager torchvision."""


class DetectedImage(NamedTuple):
    """An image with its annotations, the model's detections, and eager's where a checkpoint was given."""

    file: Path
    ground_truth: AnnotatedImage
    model: Detections
    eager: Detections | None


@dataclass(slots=True, kw_only=True)
class Collected:
    """The detections in all images, in the order of the annotations; partial where it was interrupted."""

    images: list[DetectedImage] = field(default_factory=list)
    skipped: Skipped = field(default_factory=dict)
    is_partial: bool = False


def collect(
    detector: Detector,
    files: Mapping[Path, AnnotatedImage],
    *,
    eager: Eager | None = None,
    batch_size: int = 1,
    what: str = "detecting",
) -> Collected:
    """Detect in all images with the model and with eager; Ctrl-C ends it early and keeps the detections until then.

    ``what`` goes on is shown beside the progress.
    """
    collected = Collected()
    submitted: list[str] = []

    def images() -> Iterator[RGBImage]:
        for file, annotated in files.items():
            try:
                image = open_annotated(file, annotated)
            except ImageError as error:
                collected.skipped[annotated.file_name] = str(error)
                continue
            submitted.append(annotated.file_name)
            yield image

    def skip(position: int, error: ImageError) -> None:
        collected.skipped[submitted[position]] = str(error)

    stream = detector.stream_images(images(), batch_size=batch_size, on_error=skip)
    try:
        with closing(stream):
            for image, detections in track(stream, total=len(files), what=what):
                file = Path(image.name)
                try:
                    reference = None if eager is None else eager(image)
                except ImageError as error:  # left out for both: they are scored on the same images
                    collected.skipped[files[file].file_name] = str(error)
                    continue
                collected.images.append(DetectedImage(file, files[file], detections, reference))
    except KeyboardInterrupt:
        collected.is_partial = True
    return collected


def open_annotated(file: Path, annotated: AnnotatedImage | None) -> RGBImage:
    """Decode an image; refuse one of another size than annotated: its boxes would be compared with something else."""
    image = RGBImage.open(file)
    if annotated is not None and annotated.size not in (None, image.size):
        (height, width), (annotated_height, annotated_width) = image.size, annotated.size
        raise ImageError(
            f"{image.name} is {width}x{height} (width x height), "
            f"its annotations are for {annotated_width}x{annotated_height}"
        )
    return image
