"""Read annotated images: COCO's ``instances.json``, or a folder of Pascal VOC's XML files as COCO's.

Contradictions are reported, not repaired, in one line that names the file. Both formats follow one rule: a size or an
area of 0 is not known, a flag is a word for yes or no, and names have no spaces around them.

As in VOC's development kit, an image has the name of its annotation file. Corners are pixels counted from 1, both
inside the object, so a box begins at ``xmin - 1`` and is ``xmax - xmin + 1`` wide. Difficult objects become crowds,
which count neither way. (One rule is COCO's, not VOC's: a detection is ignored for a crowd when enough of *itself* lies
in the crowd's box, not by their IoU.)
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import mode
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec

from frcnn.errors import UsageError
from frcnn.files import decode_text
from frcnn.runtime.dataset.faults import fault, invalid_annotations, reading, require_unique
from frcnn.runtime.images.sources import IMAGE_SUFFIXES
from frcnn.spec import Size

_MAX_BYTES: Final = 4 << 30
_MAX_PX: Final = 1e9  # numbers beyond it, and NaN, are refused: areas would overflow
_COCO: Final = "expected COCO instances: images, annotations with bbox as x, y, width, height, and categories"
_VOC: Final = "expected Pascal VOC: <annotation> with <object>s that have <name> and <bndbox>"
_FIRST_PIXEL: Final = 1
_FLAGS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "unspecified": False}

Coordinate = Annotated[float, msgspec.Meta(ge=-_MAX_PX, le=_MAX_PX)]
Length = Annotated[float, msgspec.Meta(ge=0, le=_MAX_PX)]
Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Identity = Number | str
"""COCO's own ids are numbers; some tools write the file's name."""
Flag = bool | int | str | None
T = TypeVar("T")
E = TypeVar("E", "CocoAnnotation", "CocoResult")


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated object, in COCO's terms.

    ``area`` is in square pixels: that of the mask where the annotations give one above 0, else of the box. COCO's sizes
    small, medium and large go by it.
    """

    category_id: Number
    bbox: tuple[Coordinate, Coordinate, Length, Length]  # x, y, width, height; 0 is the edge of the first pixel
    area: Annotated[float, msgspec.Meta(ge=0, le=_MAX_PX**2)] | None = None
    iscrowd: Flag = False  # neither finding nor missing it counts: COCO's crowds and VOC's difficult objects

    def __post_init__(self) -> None:
        if not self.area:
            msgspec.structs.force_setattr(self, "area", self.bbox[2] * self.bbox[3])
        msgspec.structs.force_setattr(self, "iscrowd", _flag("iscrowd", self.iscrowd))


class AnnotatedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated image."""

    file_name: str  # relative to the folder of images
    id: Identity | None = None  # the set's own; None where the annotations know names only
    size: Size | None  # (height, width) in pixels, or None where the annotations do not give it
    annotations: Sequence[Annotation] = ()


class GroundTruth(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated set."""

    source: str  # the file or folder it was read from, for messages
    categories: dict[int, str]  # name by id
    images: tuple[AnnotatedImage, ...]  # each file once
    has_ids: bool = True  # whether the ids are the set's own; VOC knows names only, its ids are made here
    invalid: tuple[str, ...] = ()  # annotations that were left out, and what is wrong with each

    def used_categories(self, *, with_crowds: bool = True) -> set[int]:
        """Return the categories that have objects."""
        annotations = (item for image in self.images for item in image.annotations)
        return {item.category_id for item in annotations if with_crowds or not item.iscrowd}


def count_objects(images: Iterable[AnnotatedImage], categories: Collection[int], *, crowds: bool = False) -> int:
    """Return how many objects of some categories count in images; or crowds, which do not."""
    annotations = (item for image in images for item in image.annotations)
    return sum(item.iscrowd == crowds and item.category_id in categories for item in annotations)


class CocoAnnotation(Annotation, frozen=True, kw_only=True):
    """An annotation, and the image that it is of."""

    image_id: Identity


class CocoResult(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of COCO results: what a detector found."""

    image_id: Identity
    category_id: Number
    bbox: tuple[Coordinate, Coordinate, Length, Length]  # x, y, width, height in pixels of the image
    score: Coordinate  # its order alone counts


class _CocoImage(msgspec.Struct):
    id: Identity
    file_name: str
    height: Length | None = None
    width: Length | None = None


class _CocoCategory(msgspec.Struct):
    id: Number
    name: str

    def __post_init__(self) -> None:
        self.name = self.name.strip()


class CocoIndex(msgspec.Struct):
    """The images and the categories of a COCO data set."""

    images: list[_CocoImage]
    categories: list[_CocoCategory]

    def __post_init__(self) -> None:
        require_unique("categories have the id", ((item.id, item.name) for item in self.categories))
        require_unique("images have the id", ((image.id, image.file_name) for image in self.images))


class _CocoDocument(CocoIndex):
    annotations: list[msgspec.Raw] = []


def read_annotations(path: Path, images: Path, *, skip_invalid: bool = False) -> GroundTruth:
    """Read COCO's file, or VOC's folder with the images in ``images``; a UsageError says what is wrong with them."""
    if path.is_dir():
        return read_voc(path, images, skip_invalid=skip_invalid)
    return read_coco(path, skip_invalid=skip_invalid)


def read_coco(path: Path, *, skip_invalid: bool = False) -> GroundTruth:
    """Read an annotation file; ``skip_invalid`` leaves out annotations that are invalid, and lists them."""
    with reading(path, _COCO):
        document = read_json(path, _CocoDocument)
        if not document.images:
            raise ValueError("it lists no images")
        require_unique("images have the file name", ((image.file_name, image.id) for image in document.images))
        categories = {category.id: category.name for category in document.categories}
        annotations: dict[Identity, list[Annotation]] = {image.id: [] for image in document.images}
        items, invalid = read_entries("annotations", document.annotations, CocoAnnotation, annotations, categories)
        for item in items:
            annotations[item.image_id].append(item)
    images = (
        AnnotatedImage(
            file_name=x.file_name, id=x.id, size=_known_size(x.height, x.width), annotations=tuple(annotations[x.id])
        )
        for x in document.images
    )
    if invalid and not skip_invalid:
        raise invalid_annotations(path, invalid, len(document.annotations), _COCO)
    return GroundTruth(source=str(path), categories=categories, images=tuple(images), invalid=tuple(invalid))


def read_entries(
    name: str, raws: Iterable[msgspec.Raw], kind: type[E], images: Collection[Identity], categories: Collection[int]
) -> tuple[list[E], list[str]]:
    """Return the valid entries of the list ``name``, and what is wrong with each other one."""
    decoder, items, invalid = msgspec.json.Decoder(kind), list[E](), list[str]()
    for index, raw in enumerate(raws):
        try:
            item = decoder.decode(raw)
            if item.category_id not in categories:
                raise ValueError("it is not listed - at `$.category_id`")
            if item.image_id not in images:
                raise ValueError("it is not listed - at `$.image_id`")
            items.append(item)
        except ValueError as error:
            fields = msgspec.json.decode(raw)
            image_id = f" of image {fields.get('image_id')!r}" if isinstance(fields, dict) else ""
            invalid.append(f"{name}[{index}]{image_id}: {fault(fields, error)}")
    return items, invalid


def read_json(path: Path, kind: type[T]) -> T:
    """Return what a file of JSON holds; raise OSError or ValueError."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, expected {_MAX_BYTES:,} at most")
    text = decode_text(path.read_bytes())
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        if not re.search(r"\b(NaN|Infinity)\b", text):
            raise
    # Python writes them, JSON has no such numbers: as text they are refused where a number is read, and named
    return msgspec.json.decode(msgspec.json.encode(json.loads(text, parse_constant=str)), type=kind)


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
    difficult: Flag = False

    def __post_init__(self) -> None:
        self.difficult = _flag("difficult", self.difficult)


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type: entities are how a small file becomes a large one, or reads another."""

    def doctype(self, *_: object) -> NoReturn:
        raise ValueError("it has a document type, which VOC has not")


def read_voc(folder: Path, images: Path, *, skip_invalid: bool = False) -> GroundTruth:
    """Read the XML files of VOC's ``Annotations``, with the images' suffixes from its ``JPEGImages``.

    ``skip_invalid`` leaves out objects that are invalid, and images whose file is, and lists them.
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
    suffix = mode([".jpg", *(Path(name).suffix for name in names)])  # of those whose name is written otherwise
    invalid, parsed = list[str](), dict[Path, tuple[Size | None, list[_VocObject]]]()
    for path in files:
        try:
            parsed[path] = _read_voc_file(path, invalid)
        except UsageError as error:
            invalid.append(error.message.removeprefix("--annotations: "))
    if invalid and not (skip_invalid and parsed):
        count = len(invalid) + sum(len(objects) for _, objects in parsed.values())
        raise invalid_annotations(folder, invalid, count, _VOC)
    categories = dict(enumerate(sorted({item.name for _, objects in parsed.values() for item in objects}), start=1))
    ids = {name: number for number, name in categories.items()}
    annotated = (
        AnnotatedImage(
            file_name=by_stem.get(path.stem, f"{path.stem}{suffix}"),
            size=size,
            annotations=[
                Annotation(category_id=ids[x.name], bbox=x.bndbox.as_coco(), iscrowd=x.difficult) for x in objects
            ],
        )
        for path, (size, objects) in parsed.items()
    )
    return GroundTruth(
        source=str(folder), categories=categories, images=tuple(annotated), has_ids=False, invalid=tuple(invalid)
    )


def _flag(field: str, value: Flag) -> bool:
    word = str(value or 0).casefold()
    if word not in _FLAGS:
        raise ValueError(f"expected 0 or 1 - at `$.{field}`")
    return _FLAGS[word]


def _known_size(height: float | None, width: float | None) -> Size | None:
    """Return (height, width), or None where one is not given or 0, as of tools that do not know it."""
    size = round(height or 0), round(width or 0)
    return size if min(size) >= 1 else None


def _read_voc_file(path: Path, invalid: list[str]) -> tuple[Size | None, list[_VocObject]]:
    """Return an image's (height, width), if the file gives it, and its valid objects; note the invalid."""
    with reading(path, _VOC):
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
        if root.tag != "annotation":
            raise ValueError(f"the root is <{root.tag}>")
        sides = [(root.findtext(f"size/{side}") or "").strip() or "0" for side in ("height", "width")]
        size = _known_size(*msgspec.convert(sides, tuple[Length, Length], strict=False))
        objects: list[_VocObject] = []
        for number, element in enumerate(root.findall("object"), start=1):
            fields = _fields(element)
            try:
                objects.append(msgspec.convert(fields, _VocObject, strict=False))
            except ValueError as error:
                invalid.append(f"{path.name}: object {number}: {fault(fields, error)}")
        return size, objects


def _fields(element: ElementTree.Element) -> dict[str, Any]:
    """Return an element's children by tag, texts or dictionaries; the first of several with one tag."""
    fields = {item.tag: _fields(item) if len(item) else (item.text or "").strip() for item in reversed(element)}
    return dict(reversed(fields.items()))
