"""COCO results read back; ``Detections.to_coco`` and ``frcnn detect --json`` write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from frcnn.runtime.dataset.annotations import CocoIndex, CocoResult
from frcnn.runtime.detections import Detections
from frcnn.runtime.formats.objects import (
    Box,
    FoundImage,
    ImageSizes,
    JsonSource,
    Score,
    build,
    content_of,
    inside,
    known_size,
    reading_from,
)

_EXPECTED: Final = "expected a list of image_id, category_id, bbox as x, y, width, height, and score"
_DATASET: Final = "expected images with id, file_name, height and width, and categories with id and name"


def from_coco(
    results: JsonSource,
    dataset: JsonSource,
    *,
    label_names: Sequence[str] | None = None,
    image_sizes: ImageSizes | None = None,
) -> list[Detections]:
    """Return the detections of each image of a data set, in its order, from COCO results.

    Args:
        results: A file of results, or its content.
        dataset: ``instances.json``, what ``frcnn detect --json-index`` writes, or its content: ``images`` and
            ``categories``.
        label_names: The model's, the background first. None: the categories' names in their order, so that a class's
            index is its category's place, not its id.
        image_sizes: ``(height, width)`` by ``file_name``, where ``images`` do not give it.

    Raises:
        UsageError: What is there is not as expected.
    """
    with reading_from("COCO", dataset, _DATASET):
        known = content_of(dataset, CocoIndex)
        names = {category.id: category.name for category in known.categories}
        images = {
            x.id: FoundImage(x.file_name, known_size(x.file_name, x.width, x.height, image_sizes), [])
            for x in known.images
        }
    with reading_from("COCO", results, _EXPECTED):
        for number, item in enumerate(content_of(results, list[CocoResult])):
            with inside(f"results[{number}]"):
                if item.category_id not in names or item.image_id not in images:
                    what = "image_id" if item.category_id in names else "category_id"
                    raise ValueError(f"its {what} {getattr(item, what)!r} is not in the data set")
                x, y, width, height = item.bbox
                score = msgspec.convert(item.score, Score)
                images[item.image_id].boxes.append(Box(names[item.category_id], score, (x, y, x + width, y + height)))
        return build(list(images.values()), label_names=label_names, listed=list(names.values()))
