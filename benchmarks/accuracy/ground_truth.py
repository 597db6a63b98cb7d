"""Annotated images from either format: the images, their objects and the categories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec

from frcnn.errors import UsageError
from frcnn.spec import Size

__all__ = ["AnnotatedImage", "Annotation", "Coordinate", "GroundTruth", "Length", "names_shown", "reading"]

MAX_PX: Final = 1e9
"""Numbers beyond it, and NaN, are refused: areas would overflow."""
Coordinate = Annotated[float, msgspec.Meta(ge=-MAX_PX, le=MAX_PX)]
Length = Annotated[float, msgspec.Meta(ge=0, le=MAX_PX)]

_NAMES_SHOWN: Final = 10


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated object, in COCO's terms.

    Attributes:
        category_id: its category.
        bbox: x, y, width, height in pixels of the image; 0 is the left or top edge of the first pixel.
        area: in square pixels, of the mask where the annotations give it, else of the box. COCO's sizes small, medium
            and large go by it.
        iscrowd: neither finding nor missing it counts: COCO's crowds and VOC's difficult objects.
    """

    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool = False


class AnnotatedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An annotated image.

    Attributes:
        file_name: relative to the folder of images.
        size: (height, width) in pixels, or None where the annotations do not give it.
        annotations: its objects.
    """

    file_name: str
    size: Size | None
    annotations: tuple[Annotation, ...] = ()


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


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Report whatever goes wrong while an annotation file is read in one line that names the file.

    Args:
        path: the file.
        expected: the hint, where its content is wrong.

    Raises:
        UsageError: something went wrong.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"--annotations: cannot read {path}: {error.strerror}", hint="check the path") from error
    except Exception as error:  # files are others': too deep a nesting, an unknown encoding, too large a number
        raise UsageError(f"--annotations: {path}: {' '.join(str(error).split())}", hint=expected) from error


def names_shown(names: Sequence[str], maximum: int = _NAMES_SHOWN) -> str:
    """Return names for a message: all of a few, the first of many."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(names[:maximum]) + more
