"""Read COCO's ``instances.json``, strictly: what does not fit together is said, not repaired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from frcnn.benchmarks.accuracy.truth import Truth, TruthImage, TruthObject
from frcnn.errors import UsageError

__all__ = ["read_coco"]

_WANTED: Final = "expected COCO instances: images, annotations with bbox, categories"

Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Identity = Number | str
"""COCO's own ids are numbers; some tools write the file's name."""

_LARGEST_PX: Final = 1e9
Side = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST_PX)]
Corner = Annotated[float, msgspec.Meta(ge=-_LARGEST_PX, le=_LARGEST_PX)]


class _Image(msgspec.Struct):
    id: Identity
    file_name: str
    height: Side | None = None
    width: Side | None = None


class _Object(msgspec.Struct):
    image_id: Identity
    category_id: Number
    bbox: Annotated[list[Corner], msgspec.Meta(min_length=4, max_length=4)]
    area: Annotated[float, msgspec.Meta(ge=0, le=_LARGEST_PX**2)] | None = None
    iscrowd: int | bool = 0


class _Category(msgspec.Struct):
    id: Number
    name: str


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category]


def read_coco(path: Path) -> Truth:
    """Read an annotation file.

    Raises:
        UsageError: it cannot be read, is no COCO instances file, or does not fit together.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {path}: {error.strerror}", hint="check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--annotations: {path}: {error}", hint=_WANTED) from error
    categories = _categories(document, path)
    objects = _objects(document, categories, path)
    images = tuple(
        TruthImage(file_name=image.file_name, size=_size(image), objects=tuple(objects[image.id]))
        for image in document.images
    )
    if not images:
        raise UsageError(f"--annotations: {path} lists no images", hint=_WANTED)
    return Truth(source=str(path), categories=categories, images=images)


def _categories(document: _Document, path: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    for category in document.categories:
        if category.id in categories:
            raise UsageError(f"--annotations: {path}: two categories have the id {category.id}")
        categories[category.id] = category.name
    return categories


def _objects(document: _Document, categories: Mapping[int, str], path: Path) -> dict[Identity, list[TruthObject]]:
    """Return the objects by image; images that have none are not in it."""
    ids = {image.id for image in document.images}
    if len(ids) < len(document.images):
        raise UsageError(f"--annotations: {path}: two images have the same id")
    if len({image.file_name for image in document.images}) < len(document.images):
        raise UsageError(f"--annotations: {path}: an image is listed twice", hint="merge the two entries")
    objects: dict[Identity, list[TruthObject]] = defaultdict(list)
    for number, item in enumerate(document.annotations):
        where = f"--annotations: {path}: annotations[{number}]"
        if item.image_id not in ids:
            raise UsageError(f"{where} is of the image {item.image_id!r}, which is not listed")
        if item.category_id not in categories:
            raise UsageError(f"{where} is of the category {item.category_id}, which is not listed")
        x, y, width, height = item.bbox
        if min(width, height) < 0:
            raise UsageError(f"{where}: expected bbox as x, y, width, height, got {item.bbox}")
        objects[item.image_id].append(
            TruthObject(
                category=item.category_id,
                box=(x, y, width, height),
                area=width * height if item.area is None else item.area,
                is_crowd=bool(item.iscrowd),
            )
        )
    return objects


def _size(image: _Image) -> tuple[int, int] | None:
    if image.height is None or image.width is None:
        return None
    return round(image.height), round(image.width)
