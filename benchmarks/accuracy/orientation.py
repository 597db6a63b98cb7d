"""Turn annotations upright with their images: the detector sees a file as its EXIF orientation turns it.

Some tools annotate what they show, which is upright; others the pixels as stored; some write upright boxes beside the
stored size. Boxes that leave the image in one reading show the other; where there are none, the sizes do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from frcnn.benchmarks.accuracy.images import DetectedImage
from frcnn.benchmarks.accuracy.scoring import score
from frcnn.console import track
from frcnn.errors import ImageError
from frcnn.log import warn_once
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation
from frcnn.runtime.images.decode import TRANSPOSED, read_orientation, upright_box
from frcnn.spec import Size

Reading = Literal["upright", "stored"]
READINGS: Final[tuple[Reading, ...]] = get_args(Reading)

_OTHER: Final[Mapping[Reading, Reading]] = {"upright": "stored", "stored": "upright"}
_SLACK: Final = 0.02  # of the longer side: so far do boxes leave an image by carelessness alone
_CLEAR_AP50: Final = 0.05
_SETTLE: Final = "--exif upright or --exif stored settles it"


class _Turned(NamedTuple):
    """An image that EXIF turns: its annotations by either reading, and the readings that its boxes and size allow."""

    read: dict[Reading, AnnotatedImage]
    by_boxes: Reading | None
    by_size: Reading | None


def turn_upright(
    files: Mapping[Path, AnnotatedImage], exif: Reading | None = None
) -> tuple[dict[Path, AnnotatedImage], dict[Path, AnnotatedImage]]:
    """Return the images with upright annotations; and those that EXIF turns once more, their boxes read the other way.

    ``exif`` is what boxes are in where EXIF turns the image. Default: what boxes and sizes show, which is said.
    """
    tracked = track(files.items(), total=len(files), what="reading EXIF orientations")
    turned = {file: item for file, image in tracked if (item := _turned(file, image)) is not None}
    by_boxes = _most(item.by_boxes for item in turned.values())
    by_size = _most(item.by_size for item in turned.values())
    chosen = {file: exif or item.by_boxes or by_boxes or by_size or "upright" for file, item in turned.items()}
    if turned and exif is None:
        counts = Counter(chosen.values())
        readings = " and ".join(f"{reading} in {counts[reading]}" for reading in READINGS if counts[reading])
        shown = "boxes show" if by_boxes else "sizes say" if by_size else "nothing denies"
        what = f"EXIF turns {len(turned)} of {len(files)} images; boxes are taken as {readings}, as {shown}"
        warn_once(f"{what}: {_SETTLE}")
    upright = {file: turned[file].read[reading] for file, reading in chosen.items()}
    other = {file: turned[file].read[_OTHER[reading]] for file, reading in chosen.items()}
    return {**files, **upright}, other


def warn_of_reading(
    images: Iterable[DetectedImage], other: Mapping[Path, AnnotatedImage], categories: Mapping[int, int]
) -> None:
    """Warn where detections in images that EXIF turns fit the boxes far better in the ``other`` reading of them."""
    turned = [image for image in images if image.file in other]
    if not turned:
        return
    found = [image.model for image in turned]
    here = score([image.ground_truth for image in turned], found, categories).overall["AP50"]
    there = score([other[image.file] for image in turned], found, categories).overall["AP50"]
    if here is not None and there is not None and there > max(2 * here, _CLEAR_AP50):
        what = f"in the {len(turned)} images that EXIF turns AP50 is {here:.2f}, and {there:.2f}"
        warn_once(f"{what} if their boxes are read the other way: {_SETTLE}")


def _turned(file: Path, image: AnnotatedImage) -> _Turned | None:
    """Return the readings of an image; None where EXIF does not turn it, or it cannot be read, which is said later."""
    try:
        orientation, stored = read_orientation(file)
    except ImageError:
        return None
    if orientation == 1:
        return None
    upright = stored[::-1] if orientation in TRANSPOSED else stored
    frames: dict[Reading, Size] = {"upright": upright, "stored": stored}
    turned = [
        msgspec.structs.replace(item, bbox=upright_box(item.bbox, orientation, stored)) for item in image.annotations
    ]
    as_upright = msgspec.structs.replace(image, size=upright if image.size == stored else image.size)
    return _Turned(
        {"upright": as_upright, "stored": msgspec.structs.replace(as_upright, annotations=turned)},
        by_boxes=_only(key for key, frame in frames.items() if _fit(image.annotations, frame)),
        by_size=_only(key for key, frame in frames.items() if image.size == frame),
    )


def _fit(annotations: Iterable[Annotation], frame: Size) -> bool:
    """Return whether boxes lie in an image of (height, width), but for a little."""
    slack = _SLACK * max(frame)
    return all(
        min(x, y) >= -slack and y + height <= frame[0] + slack and x + width <= frame[1] + slack
        for x, y, width, height in (item.bbox for item in annotations)
    )


def _only(readings: Iterable[Reading]) -> Reading | None:
    """Return the reading where there is one alone."""
    allowed = list(readings)
    return allowed[0] if len(allowed) == 1 else None


def _most(readings: Iterable[Reading | None]) -> Reading | None:
    shown = Counter(reading for reading in readings if reading is not None)
    return next((reading for reading, _ in shown.most_common(1)), None)
