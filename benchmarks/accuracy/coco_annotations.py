"""Read COCO's ``instances.json`` strictly: contradictions are reported, not repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from frcnn.benchmarks.accuracy.ground_truth import (
    MAX_PX,
    AnnotatedImage,
    Annotation,
    Coordinate,
    GroundTruth,
    Length,
    reading,
)

__all__ = ["read_coco"]

_EXPECTED: Final = "expected COCO instances: images, annotations with bbox as x, y, width, height, and categories"

Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Identity = Number | str
"""COCO's own ids are numbers; some tools write the file's name."""


class _Image(msgspec.Struct):
    id: Identity
    file_name: str
    height: Length | None = None
    width: Length | None = None


class _Object(msgspec.Struct):
    image_id: Identity
    category_id: Number
    bbox: tuple[Coordinate, Coordinate, Length, Length]
    area: Annotated[float, msgspec.Meta(ge=0, le=MAX_PX**2)] | None = None
    iscrowd: int | bool = False


class _Category(msgspec.Struct):
    id: Number
    name: str


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category]


def read_coco(path: Path) -> GroundTruth:
    """Read an annotation file.

    Raises:
        UsageError: it cannot be read, is no COCO instances file, or contradicts itself.
    """
    with reading(path, _EXPECTED):
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
        if not document.images:
            raise ValueError("it lists no images")
        _require_unique("categories have the id", [category.id for category in document.categories])
        _require_unique("images have the id", [image.id for image in document.images])
        _require_unique("images have the file name", [image.file_name for image in document.images])
        categories = {category.id: category.name for category in document.categories}
        annotations: dict[Identity, list[Annotation]] = {image.id: [] for image in document.images}
        for index, item in enumerate(document.annotations):
            if item.image_id not in annotations:
                raise ValueError(f"annotations[{index}] is of the image {item.image_id!r}, which is not listed")
            if item.category_id not in categories:
                raise ValueError(f"annotations[{index}] is of the category {item.category_id}, which is not listed")
            area = item.bbox[2] * item.bbox[3] if item.area is None else item.area
            annotations[item.image_id].append(
                Annotation(category_id=item.category_id, bbox=item.bbox, area=area, iscrowd=bool(item.iscrowd))
            )
    images = (
        AnnotatedImage(
            file_name=image.file_name,
            size=None if image.height is None or image.width is None else (round(image.height), round(image.width)),
            annotations=tuple(annotations[image.id]),
        )
        for image in document.images
    )
    return GroundTruth(source=str(path), categories=categories, images=tuple(images))


def _require_unique(what: str, values: Sequence[Identity]) -> None:
    repeated = next((value for value, count in Counter(values).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"two {what} {repeated!r}")
