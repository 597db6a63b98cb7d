"""Label Studio: tasks with predictions, as its import takes them, and with predictions or annotations, as it exports.

A box is left, top, width and height in percent of the image. The project's labelling configuration must have a
``RectangleLabels`` tag called ``label`` for an ``Image`` tag called ``image``, whose value is ``$image``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from frcnn.runtime.dataset.annotations import Coordinate, Length
from frcnn.runtime.detections import Detections
from frcnn.runtime.formats.objects import (
    Box,
    FoundImage,
    ImageSizes,
    JsonSource,
    Score,
    build,
    class_list,
    content_of,
    corners_of,
    inside,
    known_size,
    named_sources,
    reading_from,
    sides_of,
)

_EXPECTED: Final = "expected Label Studio's JSON, not JSON-MIN: tasks of images, with upright rectanglelabels alone"
_WHOLE: Final = 100

Unrotated = Annotated[float, msgspec.Meta(ge=0, le=0)] | None


class _Value(msgspec.Struct):
    x: Coordinate
    y: Coordinate
    width: Length
    height: Length
    rectanglelabels: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]
    rotation: Unrotated = 0


class _Result(msgspec.Struct):
    type: Literal["rectanglelabels"]
    value: _Value
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: Unrotated = 0
    score: Score | None = None


class _Results(msgspec.Struct):
    result: list[_Result]
    was_cancelled: bool = False


class _Image(msgspec.Struct):
    image: str | None = None
    width: int | None = None
    height: int | None = None


class _Task(msgspec.Struct):
    data: _Image
    predictions: list[_Results] = []
    annotations: list[_Results] = []


def to_label_studio(detections: Sequence[Detections], *, address: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """Return a Label Studio task per image, with its objects as a prediction.

    Args:
        detections: Of each image.
        address: Gives what Label Studio finds an image by for its source, as
            ``"/data/local-files/?d={}".format`` for files in its local storage. By default the source itself.

    Raises:
        UsageError: An image has no source, or the detections are of models with different classes.
    """
    class_list(detections)
    return [_task(address(source), found) for source, found in named_sources(detections)]


def _task(address: str, found: Detections) -> dict[str, Any]:
    height, width = found.image_size
    results = [
        {
            "id": f"frcnn-{number}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": one.score,
            "value": {
                **dict(zip(("x", "y", "width", "height"), sides_of(one.box, found.image_size, _WHOLE), strict=True)),
                "rotation": 0,
                "rectanglelabels": [one.class_name],
            },
        }
        for number, one in enumerate(found, start=1)
    ]
    # without results nothing else has the size
    data = {"image": address, "width": width, "height": height}
    return {"data": data, "predictions": [{"model_version": "frcnn", "result": results}]}


def from_label_studio(
    source: JsonSource,
    *,
    kind: Literal["predictions", "annotations"] = "predictions",
    label_names: Sequence[str] | None = None,
    image_sizes: ImageSizes | None = None,
) -> list[Detections]:
    """Return the detections of each task of Label Studio; the source of its image is ``image`` of its data.

    Args:
        source: A file of JSON, or its content.
        kind: Whether to return what was predicted or what people have drawn. A task has one of it or none; annotations
            that were cancelled do not count.
        label_names: The model's, the background first; see :mod:`frcnn.runtime.formats`.
        image_sizes: ``(height, width)`` by source, of tasks without objects; or ``width`` and ``height`` are in data.

    Raises:
        UsageError: What is there is not as expected.
    """
    with reading_from("Label Studio", source, _EXPECTED):
        images = []
        for number, item in enumerate(content_of(source, list[dict[str, Any]])):
            with inside(f"task {number + 1}"):
                task = msgspec.convert({"data": item.get("data"), kind: item.get(kind, [])}, _Task)
                given = [x for x in getattr(task, kind) if not x.was_cancelled]
                if len(given) > 1:
                    raise ValueError(f"it has {len(given)} {kind}, expected one")
                images.append(_image(task.data, given[0].result if given else [], image_sizes))
        return build(images, label_names=label_names)


def _image(data: _Image, results: list[_Result], image_sizes: ImageSizes | None) -> FoundImage:
    sides = {(x.original_width, x.original_height) for x in results} or {(data.width, data.height)}
    if len(sides) > 1:
        raise ValueError(f"its results are of images of {len(sides)} sizes")
    size, boxes = known_size(data.image, *sides.pop(), image_sizes), list[Box]()
    for result in results:
        value, score = result.value, 1.0 if result.score is None else result.score
        corners = corners_of((value.x, value.y, value.width, value.height), size, _WHOLE)
        boxes.append(Box(value.rectanglelabels[0], score, corners))
    return FoundImage(data.image, size, boxes)
