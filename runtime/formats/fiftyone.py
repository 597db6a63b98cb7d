"""FiftyOne: the JSON of a data set, as ``fiftyone.Dataset.from_json`` and ``to_json`` have it.

A box is [left, top, width, height] relative to the image, whose size stands under ``metadata``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from frcnn.runtime.detections import Detections
from frcnn.runtime.formats.objects import (
    Box,
    FoundImage,
    ImageSizes,
    JsonSource,
    Score,
    Sides,
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

_EXPECTED: Final = "expected what Dataset.to_json() writes, after dataset.compute_metadata()"

_FIELD_TYPE: Final = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Detections)"


class _Detection(msgspec.Struct):
    label: str
    bounding_box: Sides
    confidence: Score | None = None


class _Field(msgspec.Struct):
    detections: list[_Detection]


class _Metadata(msgspec.Struct):
    width: int | None = None
    height: int | None = None


class _Sample(msgspec.Struct):
    filepath: str
    metadata: _Metadata | None = None


class _Dataset(msgspec.Struct):
    samples: list[dict[str, Any]]
    classes: dict[str, list[str]] = {}


def to_fiftyone(detections: Sequence[Detections], *, field: str = "predictions") -> dict[str, Any]:
    """Return a FiftyOne data set with a sample per image, by its absolute path, whose ``field`` has the objects.

    ``fiftyone.Dataset.from_dict`` makes a data set of it, ``fiftyone.Sample.from_dict`` a sample of an entry of
    ``samples``, and ``fiftyone.Detections.from_dict`` labels of its ``field``.

    Raises:
        UsageError: An image has no source, or the detections are of models with different classes.
    """
    samples = [
        {
            "filepath": source if "://" in source else str(Path(source).absolute()),
            "metadata": {"_cls": "ImageMetadata", "width": found.image_size[1], "height": found.image_size[0]},
            field: {"_cls": "Detections", "detections": _labels(found)},
        }
        for source, found in named_sources(detections)
    ]
    return {
        "name": "frcnn",
        "media_type": "image",
        "sample_fields": {field: _FIELD_TYPE},
        "classes": {field: class_list(detections)},
        "samples": samples,
    }


def _labels(found: Detections) -> list[dict[str, Any]]:
    return [
        {
            "_cls": "Detection",
            "label": one.class_name,
            "bounding_box": list(sides_of(one.box, found.image_size)),
            "confidence": one.score,
        }
        for one in found
    ]


def from_fiftyone(
    source: JsonSource,
    *,
    field: str = "predictions",
    label_names: Sequence[str] | None = None,
    image_sizes: ImageSizes | None = None,
) -> list[Detections]:
    """Return the detections of each sample of a FiftyOne data set; none where its ``field`` is empty.

    Args:
        source: A file of JSON, or its content.
        field: The samples' field of ``Detections``.
        label_names: The model's, the background first; see :mod:`frcnn.runtime.formats`.
        image_sizes: ``(height, width)`` by ``filepath``, of samples without metadata.

    Raises:
        UsageError: What is there is not as expected.
    """
    with reading_from("FiftyOne", source, _EXPECTED):
        dataset = content_of(source, _Dataset)
        fields = {name for sample in dataset.samples for name in sample}
        if dataset.samples and field not in fields:
            raise ValueError(f"no sample has the field {field!r}; they have {', '.join(sorted(fields))}")
        images = []
        for number, item in enumerate(dataset.samples):
            with inside(f"samples[{number}]"):
                sample = msgspec.convert(item, _Sample)
                metadata = sample.metadata or _Metadata()
                size = known_size(sample.filepath, metadata.width, metadata.height, image_sizes)
                labels = msgspec.convert(item.get(field), _Field | None)
                boxes = [
                    Box(x.label, 1.0 if x.confidence is None else x.confidence, corners_of(x.bounding_box, size))
                    for x in (labels.detections if labels else ())
                ]
                images.append(FoundImage(sample.filepath, size, boxes))
        return build(images, label_names=label_names, listed=dataset.classes.get(field, ()))
