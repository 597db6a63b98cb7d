"""One row an image: its columns, its files, and what is read from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.runtime.dataset.ids import read_ids
from frcnn.runtime.dependencies import import_pyarrow
from frcnn.runtime.detections import Detections
from frcnn.runtime.images.sources import Source
from frcnn.runtime.ray.storage import Storage
from frcnn.runtime.results.report import Report
from frcnn.spec import Manifest, Record, read_versioned

IMAGE: Final = "image"
JOB_FILE: Final = "_detections.json"
"""Beside the files with rows: the model and the options. Readers of Parquet leave out what begins with ``_``."""


class Job(Record, frozen=True, kw_only=True):
    """What every row of an output was made with; it is written before the first of them.

    Attributes:
        model_sha256: of the model file.
        score: the minimum.
        classes: indices of those that are kept; None for all.
        manifest: the model's own.
    """

    model_sha256: str
    score: float
    classes: tuple[int, ...] | None
    manifest: Manifest
    schema_version: int = 1


def read_job(place: Storage) -> Job:
    """Return what the rows of an output were made with."""
    file = place.at(f"{place.name}/{JOB_FILE}")
    return read_versioned(file.read(), Job, 1, source=file.name, remake="detect into another folder")


def schema() -> Any:
    """Return the columns that a detector adds to an image; all but ``error`` are null where it is not."""
    pa = import_pyarrow()
    return pa.schema(
        [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("labels", pa.list_(pa.int32())),
            ("class_names", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )


def table(found: Sequence[Detections | str]) -> Any:
    """Return a table with a row for each image's detections, or for the reason why there are none."""
    rows = [{"error": one} if isinstance(one, str) else _row(one) for one in found]
    return import_pyarrow().Table.from_pylist(rows, schema())


def _row(found: Detections) -> dict[str, Any]:
    height, width = found.image_size
    return {
        "width": width,
        "height": height,
        "boxes": found.boxes.tolist(),
        "scores": found.scores,
        "labels": found.labels,
        "class_names": found.class_names,
    }


def read_rows(place: Storage, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Yield the rows of an output, a table a file."""
    parquet = import_pyarrow("pyarrow.parquet")
    for name in place.list([".parquet"], may_be_missing=True):
        try:
            yield parquet.read_table(place.at(name).path, columns=columns, filesystem=place.files)
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{name}: no rows of detections: {error}", hint="take it out of the folder") from error


def read_detections(output: str | os.PathLike[str]) -> Iterator[tuple[str, Detections | str]]:
    """Yield each image of an output with its ``Detections``, or the reason why it has none; in the order of the files.

    Raises:
        ArtifactError: A file of the output is damaged.
        ImageError: The output is not there.
    """
    place = Storage.of(output)
    names = read_job(place).manifest.model.labels
    for rows in read_rows(place):
        for row in rows.to_pylist():
            if row["error"] is not None:
                yield row[IMAGE], row["error"]
                continue
            yield (
                row[IMAGE],
                Detections(
                    boxes=np.array(row["boxes"], np.float32).reshape(-1, 4),
                    scores=np.array(row["scores"], np.float32),
                    labels=np.array(row["labels"], np.int64),
                    image_size=(row["height"], row["width"]),
                    source=row[IMAGE],
                    label_names=names,
                ),
            )


def write_coco(
    output: str | os.PathLike[str],
    results: str | os.PathLike[str],
    *,
    index: str | os.PathLike[str] | None = None,
    annotations: str | os.PathLike[str] | None = None,
    pairs: Sequence[str] = (),
    allow_missing: bool = False,
) -> None:
    """Write the COCO results of an output, as ``frcnn detect --json`` does for the same images in the order of names.

    Args:
        output: What ``detect_dataset`` wrote.
        results: The JSON file to write.
        index: Also write COCO's list of images and categories here.
        annotations: COCO's ``instances.json``: results then have its image ids and category ids.
        pairs: ``label=category``, where names of classes differ; as ``--map`` of ``frcnn detect``.
        allow_missing: Leave out images that the annotations do not list.

    Raises:
        ArtifactError: A file of the output is damaged.
        OutputError: A file cannot be written.
        UsageError: The annotations do not fit.
    """
    model = read_job(Storage.of(output)).manifest.model
    found = sorted(read_detections(output), key=lambda pair: pair[0])
    ids = None
    if annotations is not None:
        sources = [Source(kind="image", name=name, at=Path(name), place=Path(name)) for name, _ in found]
        ids = read_ids(Path(annotations), sources, model, pairs, allow_missing=allow_missing)
    report = Report(model.labels, ids=ids)
    for image_id, (name, one) in enumerate(found, 1):
        if isinstance(one, Detections) and (ids is None or name in ids.images):
            report.add(image_id, name, one)
    report.write_results(os.fspath(results))
    if index is not None:
        report.write_index(os.fspath(index))
