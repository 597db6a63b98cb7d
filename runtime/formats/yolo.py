"""YOLO: a text file per image with a line per object: class, centre and sides relative to the image, perhaps a score.

Classes are counted from 0 there, and from 1 here. Neither sizes nor names of images are in the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from frcnn.errors import UsageError
from frcnn.files import decode_text
from frcnn.runtime.dataset.annotations import Coordinate, Length
from frcnn.runtime.dataset.faults import names_shown
from frcnn.runtime.detections import Detections
from frcnn.runtime.formats.objects import (
    Box,
    FoundImage,
    ImageSizes,
    Score,
    build,
    corners_of,
    inside,
    known_size,
    reading_from,
    sides_of,
)
from frcnn.spec import Size

_EXPECTED: Final = "expected lines of class, x_center, y_center, width, height, relative to the image, perhaps score"

_Index = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]
_LINES: Final = {
    5: tuple[_Index, Coordinate, Coordinate, Length, Length],
    6: tuple[_Index, Coordinate, Coordinate, Length, Length, Score],
}


def to_yolo(found: Detections, *, scores: bool = False) -> str:
    """Return the text file of an image: a line per object, with its score as the sixth value if wanted.

    What trains on such files takes five values.
    """
    lines = []
    for one in found:
        x, y, width, height = sides_of(one.box, found.image_size)
        values = [one.label - 1, x + width / 2, y + height / 2, width, height, *([one.score] if scores else [])]
        lines.append(" ".join(map(str, values)) + "\n")
    return "".join(lines)


def from_yolo(
    folder: str | os.PathLike[str], *, image_sizes: ImageSizes, label_names: Sequence[str] | None = None
) -> list[Detections]:
    """Return the detections of each image in ``image_sizes``, from the text files in a folder.

    A file has the place below the folder that its image has below the folder of all images. An image without a file has
    no objects; a file without an image is refused.

    Args:
        folder: The folder of text files.
        image_sizes: ``(height, width)`` in pixels by the image's source.
        label_names: The model's, the background first. None: the classes have no names.

    Raises:
        UsageError: What is there is not as expected.
    """
    root, places, images = Path(folder), text_places(image_sizes), []
    with reading_from("YOLO", root, _EXPECTED):
        root.stat()
        present = {path.relative_to(root) for path in root.rglob("*.txt")}
        if strange := sorted(map(str, present - set(places.values()))):
            raise ValueError(f"{len(strange)} files are of no image in image_sizes: {names_shown(strange)}")
    for source, place in places.items():
        with reading_from("YOLO", root / place, _EXPECTED):
            text = decode_text((root / place).read_bytes()) if place in present else ""
            images.append(_image(text, source, known_size(source, None, None, image_sizes)))
    with reading_from("YOLO", root, _EXPECTED):
        return build(images, label_names=label_names)


def text_places(sources: Iterable[str]) -> dict[str, Path]:
    """Return the place of each image's text file, as that of the image in the folder that has all of them."""
    # neither with .. nor with the names that links lead to
    paths = {source: Path(os.path.abspath(source)) for source in sources}  # noqa: PTH100
    root = os.path.commonpath([path.parent for path in paths.values()]) if paths else ""
    places = {source: path.relative_to(root).with_suffix(".txt") for source, path in paths.items()}
    first: dict[Path, str] = {}
    for source, place in places.items():
        if first.setdefault(place, source) != source:
            what = f"YOLO: {first[place]} and {source} have one text file, {place}"
            raise UsageError(what, hint="rename one of them")
    return places


def _image(text: str, source: str, size: Size) -> FoundImage:
    image = FoundImage(source, size, [])
    for number, line in enumerate(text.splitlines(), start=1):
        values = line.split()
        with inside(f"line {number}"):
            if len(values) not in (0, *_LINES):
                raise ValueError(f"it has {len(values)} values")
            if values:
                index, x, y, width, height, *score = msgspec.convert(values, _LINES[len(values)], strict=False)
                corners = corners_of((x - width / 2, y - height / 2, width, height), size)
                image.boxes.append(Box(index + 1, score[0] if score else 1.0, corners))
    return image
