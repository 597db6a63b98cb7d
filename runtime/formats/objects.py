"""What all formats share: names and indices of classes, sizes of images, corners and sides of boxes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from frcnn.errors import UsageError, did_you_mean
from frcnn.runtime.dataset.annotations import Coordinate, Length, read_json
from frcnn.runtime.dataset.faults import reading
from frcnn.runtime.detections import Detections
from frcnn.spec import BACKGROUND, Size

Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]
Sides = tuple[Coordinate, Coordinate, Length, Length]
"""Left, top, width and height."""
Corners = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
ImageSizes = Mapping[str, Size]
"""``(height, width)`` in pixels by the image's source, for files that do not tell it."""
T = TypeVar("T")

_INDEX: Final = re.compile("[1-9][0-9]{0,8}")

JsonSource = str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any]
"""A file of JSON, or its content."""


class Box(NamedTuple):
    """An object as a file has it."""

    label: str | int  # the class's name, or its index
    score: float
    corners: Corners


class FoundImage(NamedTuple):
    """An image as a file has it."""

    source: str | None
    size: Size
    boxes: list[Box]


def content_of(source: JsonSource, kind: type[T]) -> T:
    """Return what a file of JSON or its content holds; raise OSError or ValueError."""
    if isinstance(source, str | os.PathLike):
        return read_json(Path(source), kind)
    return msgspec.convert(source, kind)


@contextmanager
def reading_from(title: str, source: object, expected: str) -> Iterator[None]:
    """Report what goes wrong in one line that names the format and the file."""
    path = source if isinstance(source, str | os.PathLike) else "the content"
    with reading(Path(path), expected, option=title):
        yield


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Say where in a file a ValueError was."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def known_size(source: str | None, width: float | None, height: float | None, sizes: ImageSizes | None) -> Size:
    """Return an image's (height, width), the file's own or the given."""
    size = (round(height), round(width)) if width and height else (sizes or {}).get(source or "")
    if size is None:
        raise ValueError(f"the width and height of {source} are neither there nor in image_sizes")
    return msgspec.convert(size, tuple[Side, Side])


def corners_of(sides: Sides, size: Size, whole: float = 1) -> Corners:
    """Return the corners of a box relative to the image, whose sides are ``whole`` long."""
    (x, y, width, height), (image_height, image_width) = sides, size
    across, down = image_width / whole, image_height / whole
    return x * across, y * down, (x + width) * across, (y + height) * down


def sides_of(box: Corners, size: Size, whole: float = 1) -> Sides:
    """Return the sides of a box relative to the image, whose sides are ``whole`` long."""
    (x1, y1, x2, y2), (height, width) = box, size
    return whole * x1 / width, whole * y1 / height, whole * (x2 - x1) / width, whole * (y2 - y1) / height


def named_sources(detections: Iterable[Detections]) -> list[tuple[str, Detections]]:
    """Return detections with the source that a set of images knows each by."""
    pairs = [(found.source, found) for found in detections]
    for number, (source, _) in enumerate(pairs, start=1):
        if source is None:
            hint = "set it: dataclasses.replace(detections, source='photo.jpg')"
            raise UsageError(f"image {number} has no source, which this format knows images by", hint=hint)
    return [(source, found) for source, found in pairs if source is not None]


def class_list(detections: Sequence[Detections]) -> list[str]:
    """Return the names of the classes from 1; where there are none, the indices in use as text."""
    lists = {found.label_names for found in detections}
    if len(lists) > 1:
        raise UsageError("detections of models with different classes cannot be one set", hint="write each by itself")
    names = next(iter(lists), None)
    if names is not None:
        return list(names[1:])
    return [str(label) for label in sorted({label for found in detections for label in found.labels.tolist()})]


def build(
    images: Sequence[FoundImage], *, label_names: Sequence[str] | None, listed: Sequence[str] = ()
) -> list[Detections]:
    """Return the detections of images; ``listed`` are the classes that the file lists, from index 1."""
    used = {box.label for image in images for box in image.boxes}
    words = sorted(label for label in used if isinstance(label, str))
    names = tuple(label_names or (BACKGROUND, *(listed or words)))
    if label_names is None and all(_INDEX.fullmatch(name) for name in {*names[1:], *words}):
        index, names = {name: int(name) for name in words}, ()
    else:
        index = {name: label for label, name in reversed(list(enumerate(names))) if label}
    known = {*index, *(range(1, len(names)) if names else used)}
    for label in sorted(used - known, key=str):
        hint = did_you_mean(label, names[1:], f"the last of them is {names[-1]}")
        raise ValueError(f"class {label!r} is none of the {len(names) - 1} known ({hint})")
    return [_detections(image, index, names or None) for image in images]


def _detections(image: FoundImage, index: Mapping[str, int], names: tuple[str, ...] | None) -> Detections:
    boxes = sorted(image.boxes, key=lambda box: -box.score)
    return Detections(
        boxes=np.array([box.corners for box in boxes], np.float32).reshape(-1, 4),
        scores=np.array([box.score for box in boxes], np.float32),
        labels=np.array([box.label if isinstance(box.label, int) else index[box.label] for box in boxes], np.int64),
        image_size=image.size,
        source=image.source,
        label_names=names,
    )
