"""What is known of annotated images, from whichever format: images, their objects, and the categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from frcnn.spec import Size

__all__ = ["Truth", "TruthImage", "TruthObject", "names_shown"]

_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthObject:
    """An annotated object.

    Attributes:
        category: its category's id.
        box: x, y, width, height in pixels of the image; 0 is the left or top edge of the first pixel.
        area: of the object in square pixels: of its mask where the annotations say so, else of its box. COCO's sizes
            small, medium and large go by it.
        is_crowd: neither finding it nor missing it counts. COCO's crowds and VOC's difficult objects.
    """

    category: int
    box: tuple[float, float, float, float]
    area: float
    is_crowd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthImage:
    """An annotated image.

    Attributes:
        file_name: relative to the folder of images.
        size: (height, width) in pixels, or None where the annotations do not say.
        objects: what is in it.
    """

    file_name: str
    size: Size | None
    objects: tuple[TruthObject, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """An annotated set.

    Attributes:
        source: the file or folder it came from, for messages.
        categories: name by id.
        images: each file once.
        has_ids: whether the ids are the set's own; those of VOC, which knows names only, are made here.
    """

    source: str
    categories: dict[int, str]
    images: tuple[TruthImage, ...]
    has_ids: bool = True
    _counts: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for image in self.images:
            for item in image.objects:
                self._counts[item.category] = self._counts.get(item.category, 0) + 1

    def objects_of(self, category: int) -> int:
        """Return how many objects a category has, crowds among them."""
        return self._counts.get(category, 0)


def names_shown(names: Sequence[str], maximum: int = _NAMES_SHOWN) -> str:
    """Return names for a message: all of a few, the first of many."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(names[:maximum]) + more
