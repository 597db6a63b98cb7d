"""Find the annotated images, decode them, and keep the detections of the model and of eager in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from frcnn.benchmarks.accuracy.annotations import AnnotatedImage, GroundTruth, names_shown
from frcnn.console import track
from frcnn.errors import ImageError, UsageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.images.image import RGBImage

__all__ = ["Collected", "DetectedImage", "Eager", "Skipped", "collect", "find_images", "require_size"]

Skipped = dict[str, str]
"""Why an image was left out, by its file name in the annotations."""

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


def find_images(
    ground_truth: GroundTruth, folder: Path, *, allow_missing: bool = False
) -> tuple[dict[Path, AnnotatedImage], Skipped]:
    """Return the annotated images by file, and those that are missing from the folder.

    Raises:
        UsageError: the folder does not exist, or has none of them; a file name leads out of it; or some are missing
            and must not be.
    """
    if not folder.is_dir():
        raise UsageError(f"--images: {folder} is no folder", hint="give the folder that the file names are relative to")
    for image in ground_truth.images:
        _require_inside(image.file_name, ground_truth)
    files = {folder / image.file_name: image for image in ground_truth.images}
    found = {file: image for file, image in files.items() if file.is_file()}
    if not found:
        first = ground_truth.images[0].file_name
        present = sorted(path.name for path in folder.iterdir() if path.is_file())
        hint = "check that annotations and images are of one set"
        if {file.name for file in files} & set(present):
            parent = Path(first).parent
            hint = f"file names are relative to --images: for {first} give the folder that has {parent} in it"
        content = f"which has {names_shown(present, 3)}" if present else "which is empty"
        raise UsageError(
            f"none of the {len(ground_truth.images)} images that {ground_truth.source} lists ({first}, ...) is in "
            f"{folder}, {content}",
            hint=hint,
        )
    missing = [image.file_name for file, image in files.items() if file not in found]
    if missing and not allow_missing:
        raise UsageError(
            f"{len(missing)} of {len(files)} images that {ground_truth.source} lists are not in {folder}: "
            f"{names_shown(missing)}",
            hint="add them, or measure without them and their annotations: --allow-missing",
        )
    return found, dict.fromkeys(missing, "not in the folder")


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
                image = RGBImage.open(file)
                require_size(image, annotated)
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


def require_size(image: RGBImage, annotated: AnnotatedImage) -> None:
    """Refuse an image of another size than annotated: its boxes would be compared with those of something else."""
    if annotated.size not in (None, image.size):
        (height, width), (annotated_height, annotated_width) = image.size, annotated.size
        turned = "; its EXIF orientation turns it: annotate it upright" if image.size == annotated.size[::-1] else ""
        raise ImageError(
            f"{image.name} is {width}x{height} (width x height), "
            f"its annotations are for {annotated_width}x{annotated_height}{turned}"
        )


def _require_inside(name: str, ground_truth: GroundTruth) -> None:
    """Refuse a file name that is absolute, goes up, or is empty: annotations may be somebody else's."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or not paths[0].parts or any(path.anchor or ".." in path.parts for path in paths):
        raise UsageError(
            f"{ground_truth.source}: the file name {name!r} is not one inside the folder of images",
            hint="file names are relative to --images; give a folder above all images",
        )
