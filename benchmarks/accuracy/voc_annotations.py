"""Read a folder of Pascal VOC's XML annotations as if they were COCO's.

As VOC's development kit has it, an image has the name of its annotation file. Corners are pixels counted from 1, both
inside the object, so a box begins at ``xmin - 1`` and is ``xmax - xmin + 1`` wide. Difficult objects become crowds,
which count neither way. (One rule is COCO's, not VOC's: a detection is ignored for a crowd when enough of *itself* lies
in the crowd's box, not by their IoU.)
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final
from xml.parsers import expat

from frcnn.benchmarks.accuracy.truth import Truth, TruthImage, TruthObject
from frcnn.errors import UsageError
from frcnn.runtime.images.sources import IMAGE_SUFFIXES

__all__ = ["read_voc"]

_WANTED: Final = "expected Pascal VOC: <annotation> with <object>s that have <name> and <bndbox>"
_FIRST_PIXEL: Final = 1
_LARGEST_PX: Final = 1e9


class _NotVocError(ValueError):
    """An annotation that is no VOC; the message is one line."""


def read_voc(folder: Path, images: Path) -> Truth:
    """Read a folder's XML files; folders inside it are not searched.

    Args:
        folder: VOC's ``Annotations``.
        images: VOC's ``JPEGImages``, to find the images' suffixes.

    Raises:
        UsageError: there are none, or one is no VOC annotation.
    """
    files = sorted(path for path in folder.glob("*.xml") if path.name[0] != ".")
    if not files:
        raise UsageError(
            f"--annotations: {folder} has no XML files",
            hint="give COCO's instances.json, or VOC's folder Annotations",
        )
    by_stem = _images_by_stem(images)
    read = [(path, *_read(path)) for path in files]
    names = sorted({name for _, _, objects in read for name, _ in objects})
    ids = {name: number for number, name in enumerate(names, start=1)}
    found = tuple(
        TruthImage(
            file_name=by_stem.get(path.stem, f"{path.stem}.jpg"),
            size=size,
            objects=tuple(_with_category(item, ids[name]) for name, item in objects),
        )
        for path, size, objects in read
    )
    return Truth(source=str(folder), categories={n: name for name, n in ids.items()}, images=found, has_ids=False)


def _images_by_stem(folder: Path) -> dict[str, str]:
    """Return the image files' names by stem; of several with one stem the first by name."""
    if not folder.is_dir():
        return {}
    names = sorted((p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), reverse=True)
    return {Path(name).stem: name for name in names}


def _with_category(item: TruthObject, category: int) -> TruthObject:
    return TruthObject(category=category, box=item.box, area=item.area, is_crowd=item.is_crowd)


def _read(path: Path) -> tuple[tuple[int, int] | None, list[tuple[str, TruthObject]]]:
    """Return an image's (height, width), if it is said, and its objects with their names."""
    try:
        root = _parsed(path.read_bytes())
        if root.tag != "annotation":
            raise _NotVocError(f"the root is <{root.tag}>")
        return _size(root), [_object(item) for item in root.findall("object")]
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {path}: {error.strerror}") from error
    except Exception as error:  # whatever reading it comes to: an encoding may be unknown, or a number too large
        raise UsageError(f"--annotations: {path}: {' '.join(str(error).split())}", hint=_WANTED) from error


def _parsed(text: bytes) -> ElementTree.Element:
    """Parse XML without a document type: entities are how a small file becomes a large one, or reads another."""

    def refuse(*_: object) -> None:
        raise _NotVocError("it has a document type, which VOC has not")

    scout = expat.ParserCreate()  # ElementTree's own parser lets nobody refuse anything
    scout.StartDoctypeDeclHandler = refuse
    scout.Parse(text, True)
    return ElementTree.fromstring(text)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return (height, width); tools that do not know it write 0."""
    height, width = root.findtext("size/height"), root.findtext("size/width")
    if height is None or width is None:
        return None
    size = int(float(height)), int(float(width))
    return size if min(size) > 0 else None


def _object(item: ElementTree.Element) -> tuple[str, TruthObject]:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise _NotVocError("an object has no name")
    x1, y1, x2, y2 = (_number(item, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise _NotVocError(f"the box of {name!r} ends before it begins: {x1:g}, {y1:g}, {x2:g}, {y2:g}")
    width, height = x2 - x1 + _FIRST_PIXEL, y2 - y1 + _FIRST_PIXEL
    difficult = (item.findtext("difficult") or "0").strip() not in ("", "0")
    box = (x1 - _FIRST_PIXEL, y1 - _FIRST_PIXEL, width, height)
    return name, TruthObject(category=0, box=box, area=width * height, is_crowd=difficult)


def _number(item: ElementTree.Element, corner: str) -> float:
    text = item.findtext(f"bndbox/{corner}")
    if text is None:
        raise _NotVocError(f"the object {item.findtext('name')!r} has no {corner}")
    value = float(text)
    if not abs(value) <= _LARGEST_PX:  # NaN neither
        raise _NotVocError(f"{corner} is {text.strip()}")
    return value
