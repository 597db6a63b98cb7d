"""Read a folder of Pascal VOC's XML annotations as COCO's.

As in VOC's development kit, an image has the name of its annotation file. Corners are pixels counted from 1, both
inside the object, so a box begins at ``xmin - 1`` and is ``xmax - xmin + 1`` wide. Difficult objects become crowds,
which count neither way. (One rule is COCO's, not VOC's: a detection is ignored for a crowd when enough of *itself* lies
in the crowd's box, not by their IoU.)
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import msgspec

from frcnn.benchmarks.accuracy.ground_truth import AnnotatedImage, Annotation, Coordinate, GroundTruth, Length, reading
from frcnn.errors import UsageError
from frcnn.runtime.images.sources import IMAGE_SUFFIXES
from frcnn.spec import Size

__all__ = ["read_voc"]

_EXPECTED: Final = "expected Pascal VOC: <annotation> with <object>s that have <name> and <bndbox>"
_FIRST_PIXEL: Final = 1


class _Box(msgspec.Struct):
    xmin: Coordinate
    ymin: Coordinate
    xmax: Coordinate
    ymax: Coordinate

    def __post_init__(self) -> None:
        if self.xmax < self.xmin or self.ymax < self.ymin:
            raise ValueError("the box ends before it begins")


class _Object(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    bndbox: _Box
    difficult: str = ""

    def annotation(self, category_id: int) -> Annotation:
        box = self.bndbox
        width, height = box.xmax - box.xmin + _FIRST_PIXEL, box.ymax - box.ymin + _FIRST_PIXEL
        return Annotation(
            category_id=category_id,
            bbox=(box.xmin - _FIRST_PIXEL, box.ymin - _FIRST_PIXEL, width, height),
            area=width * height,
            iscrowd=self.difficult not in ("", "0"),
        )


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
    parsed = [_read(path) for path in files]
    categories = sorted({item.name for _, objects in parsed for item in objects})
    ids = {name: number for number, name in enumerate(categories, start=1)}
    annotated = (
        AnnotatedImage(
            file_name=by_stem.get(path.stem, f"{path.stem}.jpg"),
            size=size,
            annotations=tuple(item.annotation(ids[item.name]) for item in objects),
        )
        for path, (size, objects) in zip(files, parsed, strict=True)
    )
    return GroundTruth(
        source=str(folder),
        categories={number: name for name, number in ids.items()},
        images=tuple(annotated),
        has_ids=False,
    )


def _read(path: Path) -> tuple[Size | None, list[_Object]]:
    """Return an image's (height, width), if the file gives it, and its objects."""
    with reading(path, _EXPECTED):
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
        if root.tag != "annotation":
            raise ValueError(f"the root is <{root.tag}>")
        fields = [_fields(item) for item in root.findall("object")]
        objects = msgspec.convert(fields, list[_Object], strict=False)
        sides = [root.findtext(f"size/{side}") for side in ("height", "width")]
        if None in sides:
            return None, objects
        height, width = msgspec.convert(sides, tuple[Length, Length], strict=False)
        # tools that do not know the size write 0
        return (int(height), int(width)) if min(height, width) >= 1 else None, objects


def _fields(element: ElementTree.Element) -> dict[str, Any]:
    """Return an element's children by tag, texts or dictionaries; the first of several with one tag."""
    return {item.tag: _fields(item) if len(item) else (item.text or "").strip() for item in reversed(element)}
