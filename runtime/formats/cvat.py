"""CVAT: the XML of "CVAT for images 1.1".

A box has its corners in pixels. It has no score: that is its attribute ``score``, which CVAT keeps where the task's
labels have such an attribute, and else leaves out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn
from xml.etree.ElementTree import XMLParser
from xml.sax.saxutils import escape, quoteattr

import msgspec

from frcnn.errors import UsageError
from frcnn.runtime.dataset.annotations import Coordinate
from frcnn.runtime.detections import Detections
from frcnn.runtime.formats.objects import Box, FoundImage, Score, Side, build, class_list, named_sources, reading_from

_EXPECTED: Final = 'expected "CVAT for images 1.1": <annotations> with <image>s that have upright <box>es alone'
_CHUNK_BYTES: Final = 1 << 20
_SHAPES: Final = ("polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask", "track")
_NO_XML: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SCORE: Final = (
    "<attributes><attribute><name>score</name><mutable>False</mutable><input_type>text</input_type>"
    "<default_value></default_value><values></values></attribute></attributes>"
)


def to_cvat(detections: Sequence[Detections]) -> str:
    """Return the XML of CVAT with an image per ``Detections``.

    Raises:
        UsageError: An image has no source, a name has a character that XML cannot have, or the detections are of
            models with different classes.
    """
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>", "<meta><task><labels>"]
    lines += [f"<label><name>{escape(name)}</name>{_SCORE}</label>" for name in class_list(detections)]
    lines += ["</labels></task></meta>"]
    for number, (source, found) in enumerate(named_sources(detections)):
        height, width = found.image_size
        lines.append(f'<image id="{number}" name={quoteattr(source)} width="{width}" height="{height}">')
        for one in found:
            corners = " ".join(f'{name}="{x}"' for name, x in zip(("xtl", "ytl", "xbr", "ybr"), one.box, strict=True))
            lines.append(f'<box label={quoteattr(one.class_name)} source="auto" occluded="0" {corners} z_order="0">')
            lines.append(f'<attribute name="score">{one.score}</attribute></box>')
        lines.append("</image>")
    text = "\n".join([*lines, "</annotations>\n"])
    if found_character := _NO_XML.search(text):
        raise UsageError(
            f"CVAT: a name has the character {found_character[0]!r}, which XML cannot have", hint="rename it"
        )
    return text


def from_cvat(path: str | os.PathLike[str], *, label_names: Sequence[str] | None = None) -> list[Detections]:
    """Return the detections of each image of a file of "CVAT for images 1.1".

    Args:
        path: The XML file.
        label_names: The model's, the background first; see :mod:`frcnn.runtime.formats`.

    Raises:
        UsageError: What is there is not as expected.
    """
    with reading_from("CVAT", path, _EXPECTED):
        document = _Document()
        parser = XMLParser(target=document)
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                parser.feed(chunk)
        parser.close()
        return build(document.images, label_names=label_names, listed=document.labels)


class _ImageElement(msgspec.Struct):
    name: str
    width: Side
    height: Side


class _BoxElement(msgspec.Struct):
    label: str
    xtl: Coordinate
    ytl: Coordinate
    xbr: Coordinate
    ybr: Coordinate
    rotation: float = 0

    def __post_init__(self) -> None:
        if self.xbr < self.xtl or self.ybr < self.ytl:
            raise ValueError("the box ends before it begins")
        if self.rotation:
            raise ValueError("the box is rotated")


class _Document:
    """Takes what a parser finds; the tree of a large file would be many times its size."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.images: list[FoundImage] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._attribute = ""

    def doctype(self, *_: object) -> NoReturn:
        """Refuse entities: they are how a small file becomes a large one, or reads another."""
        raise ValueError("it has a document type, which CVAT's files have not")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "annotations":
            raise ValueError(f"the root is <{tag}>")
        if tag in _SHAPES:
            raise ValueError(f"it has a <{tag}>")
        place = f"image {len(self.images)}"
        if tag == "image" and self._open == ["annotations"]:
            image = msgspec.convert(attributes, _ImageElement, strict=False)
            self.images.append(FoundImage(image.name, (image.height, image.width), []))
        elif tag == "box" and self._open == ["annotations", "image"]:
            try:
                box = msgspec.convert(attributes, _BoxElement, strict=False)
            except ValueError as error:
                raise ValueError(f"{place}, box {len(self.images[-1].boxes) + 1}: {error}") from error
            self.images[-1].boxes.append(Box(box.label, 1.0, (box.xtl, box.ytl, box.xbr, box.ybr)))
        self._attribute = attributes.get("name", "") if tag == "attribute" else ""
        self._open.append(tag)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text)
        self._text.clear()
        if self._open[-3:] == ["labels", "label", "name"]:
            self.labels.append(text)
        elif self._open == ["annotations", "image", "box", "attribute"] and self._attribute == "score":
            boxes = self.images[-1].boxes
            boxes[-1] = boxes[-1]._replace(score=msgspec.convert(text, Score, strict=False))
        self._open.pop()

    def close(self) -> None:
        """End."""
