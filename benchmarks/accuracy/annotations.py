"""Read annotated images: COCO's ``instances.json``, or a folder of Pascal VOC's XML files as COCO's.

Contradictions are reported, not repaired, in one line that names the file.

As in VOC's development kit, an image has the name of its annotation file. Corners are pixels counted from 1, both
inside the object, so a box begins at ``xmin - 1`` and is ``xmax - xmin + 1`` wide. Difficult objects become crowds,
which count neither way. (One rule is COCO's, not VOC's: a detection is ignored for a crowd when enough of *itself* lies
in the crowd's box, not by their IoU.)
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import msgspec

from frcnn.errors import UsageError
from frcnn.runtime.images.sources import IMAGE_SUFFIXES
from frcnn.spec import Size

__all__ = ["AnnotatedImage", "Annotation", "GroundTruth", "names_shown", "read_coco", "read_voc"]

_MAX_PX: Final = 1e9  # numbers beyond it, and NaN, are refused: areas would overflow
_COCO: Final = "expected COCO instances: images, annotations with bbox as x, y, width, height, and categories"
_VOC: Final = "expected Pascal VOC: <annotation> with <object>s that have <name> and <bndbox>"
_FIRST_PIXEL: Final = 1
_NAMES_SHOWN: Final = 10

Coordinate = Annotated[float, msgspec.Meta(ge=-_MAX_PX, le=_MAX_PX)]
Length = Annotated[float, msgspec.Meta(ge=0, le=_MAX_PX)]
Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Identity = Number | str
"""COCO's own ids are numbers; some tools write the file's name."""


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated object, in COCO's terms.

    Attributes:
        category_id: its category.
        bbox: x, y, width, height in pixels of the image; 0 is the left or top edge of the first pixel.
        area: in square pixels, of the mask where the annotations give it, else of the box. COCO's sizes small, medium
            and large go by it.
        iscrowd: neither finding nor missing it counts: COCO's crowds and VOC's difficult objects.
    """

    category_id: Number
    bbox: tuple[Coordinate, Coordinate, Length, Length]
    area: Annotated[float, msgspec.Meta(ge=0, le=_MAX_PX**2)] | None = None
    iscrowd: int | bool = False

    def __post_init__(self) -> None:
        if self.area is None:
            msgspec.structs.force_setattr(self, "area", self.bbox[2] * self.bbox[3])


class AnnotatedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated image.

    Attributes:
        file_name: relative to the folder of images.
        size: (height, width) in pixels, or None where the annotations do not give it.
        annotations: its objects.
    """

    file_name: str
    size: Size | None
    annotations: Sequence[Annotation] = ()


class GroundTruth(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated set.

    Attributes:
        source: the file or folder it was read from, for messages.
        categories: name by id.
        images: each file once.
        has_ids: whether the ids are the set's own; VOC knows names only, its ids are made here.
    """

    source: str
    categories: dict[int, str]
    images: tuple[AnnotatedImage, ...]
    has_ids: bool = True

    def used_categories(self, *, with_crowds: bool = True) -> set[int]:
        """Return the categories that have objects."""
        annotations = (item for image in self.images for item in image.annotations)
        return {item.category_id for item in annotations if with_crowds or not item.iscrowd}


class _CocoAnnotation(Annotation, frozen=True, kw_only=True):
    image_id: Identity


class _CocoImage(msgspec.Struct):
    id: Identity
    file_name: str
    height: Length | None = None
    width: Length | None = None


class _CocoCategory(msgspec.Struct):
    id: Number
    name: str


class _CocoDocument(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


def read_coco(path: Path) -> GroundTruth:
    """Read an annotation file.

    Raises:
        UsageError: it cannot be read, is no COCO instances file, or contradicts itself.
    """
    with _reading(path, _COCO):
        document = msgspec.json.decode(path.read_bytes(), type=_CocoDocument)
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
            annotations[item.image_id].append(item)
    images = (
        AnnotatedImage(
            file_name=image.file_name,
            size=None if image.height is None or image.width is None else (round(image.height), round(image.width)),
            annotations=tuple(annotations[image.id]),
        )
        for image in document.images
    )
    return GroundTruth(source=str(path), categories=categories, images=tuple(images))


class _VocBox(msgspec.Struct):
    xmin: Coordinate
    ymin: Coordinate
    xmax: Coordinate
    ymax: Coordinate

    def __post_init__(self) -> None:
        if self.xmax < self.xmin or self.ymax < self.ymin:
            raise ValueError("the box ends before it begins")

    def as_coco(self) -> tuple[float, float, float, float]:
        width, height = self.xmax - self.xmin + _FIRST_PIXEL, self.ymax - self.ymin + _FIRST_PIXEL
        return self.xmin - _FIRST_PIXEL, self.ymin - _FIRST_PIXEL, width, height


class _VocObject(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    bndbox: _VocBox
    difficult: str = ""


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type: entities are how a small file becomes a large one, or reads another."""

    def doctype(self, *_: object) -> NoReturn:
        raise ValueError("it has a document type, which VOC has not")


def read_voc(folder: Path, images: Path) -> GroundTruth:
    """Read a folder's XML files; folders inside it are not searched.

    Args:
        folder: VOC's ``Annotations``.
        images: VOC's ``JPEGImages``, to find the images' suffixes.

    Raises:
        UsageError: there are none, or one is no VOC annotation.
    """
    files = sorted(path for path in folder.glob("*.xml") if not path.name.startswith("."))
    if not files:
        raise UsageError(
            f"--annotations: {folder} has no XML files",
            hint="give COCO's instances.json, or VOC's folder Annotations",
        )
    # of several images with one stem the first by name counts
    names = sorted((p.name for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if images.is_dir() else ())
    by_stem = {Path(name).stem: name for name in reversed(names)}
    parsed = [_read_voc_file(path) for path in files]
    categories = dict(enumerate(sorted({item.name for _, objects in parsed for item in objects}), start=1))
    ids = {name: number for number, name in categories.items()}
    annotated = (
        AnnotatedImage(
            file_name=by_stem.get(path.stem, f"{path.stem}.jpg"),
            size=size,
            annotations=[
                Annotation(category_id=ids[x.name], bbox=x.bndbox.as_coco(), iscrowd=x.difficult not in ("", "0"))
                for x in objects
            ],
        )
        for path, (size, objects) in zip(files, parsed, strict=True)
    )
    return GroundTruth(source=str(folder), categories=categories, images=tuple(annotated), has_ids=False)


def names_shown(names: Sequence[str], maximum: int = _NAMES_SHOWN) -> str:
    """Return names for a message: all of a few, the first of many."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(names[:maximum]) + more


@contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    """Report what goes wrong in one line that names the file; ``expected`` is the hint where its content is wrong."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {path}: {error.strerror}", hint="check the path") from error
    except Exception as error:  # files are others': too deep a nesting, an unknown encoding, too large a number
        raise UsageError(f"--annotations: {path}: {' '.join(str(error).split())}", hint=expected) from error


def _require_unique(what: str, values: Sequence[Identity]) -> None:
    repeated = next((value for value, count in Counter(values).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"two {what} {repeated!r}")


def _read_voc_file(path: Path) -> tuple[Size | None, list[_VocObject]]:
    """Return an image's (height, width), if the file gives it, and its objects."""
    with _reading(path, _VOC):
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
        if root.tag != "annotation":
            raise ValueError(f"the root is <{root.tag}>")
        objects = msgspec.convert([_fields(item) for item in root.findall("object")], list[_VocObject], strict=False)
        sides = [root.findtext(f"size/{side}") for side in ("height", "width")]
        if None in sides:
            return None, objects
        height, width = msgspec.convert(sides, tuple[Length, Length], strict=False)
        # tools that do not know the size write 0
        return (int(height), int(width)) if min(height, width) >= 1 else None, objects


def _fields(element: ElementTree.Element) -> dict[str, Any]:
    """Return an element's children by tag, texts or dictionaries; the first of several with one tag."""
    return {item.tag: _fields(item) if len(item) else (item.text or "").strip() for item in reversed(element)}
