"""Write the files of a format."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from frcnn.errors import OutputError, UsageError, did_you_mean
from frcnn.files import writable_file, writable_folder, write_text
from frcnn.runtime.detections import Detections
from frcnn.runtime.formats.cvat import to_cvat
from frcnn.runtime.formats.fiftyone import to_fiftyone
from frcnn.runtime.formats.label_studio import to_label_studio
from frcnn.runtime.formats.objects import class_list, named_sources
from frcnn.runtime.formats.yolo import text_places, to_yolo

FORMATS: Final = ("cvat", "fiftyone", "label-studio", "yolo", "yolo-scores")
"""What :func:`write` writes: a file each, ``yolo`` and ``yolo-scores`` a folder."""


def write(kind: str, path: str | os.PathLike[str], detections: Sequence[Detections]) -> None:
    """Write the detections of images as a labelling tool reads them.

    ``yolo`` has five values a line, ``yolo-scores`` six. Both fill a new folder: ``labels``, with a text file per image
    as :func:`from_yolo` reads them, and ``data.yaml`` with the names of the classes.

    Raises:
        OutputError: What is to be written cannot be, or the folder has something in it.
        UsageError: There is no such format; or what ``to_cvat`` and so on raise.
    """
    file = check_target(kind, path)
    if kind == "cvat":
        write_text(file, to_cvat(detections))
    elif kind.startswith("yolo"):
        _write_yolo(file, detections, scores=kind == "yolo-scores")
    else:
        content = to_fiftyone(detections) if kind == "fiftyone" else to_label_studio(detections)
        write_text(file, json.dumps(content, allow_nan=False) + "\n")


def check_target(kind: str, path: str | os.PathLike[str]) -> Path:
    """Return where a format goes, before the work: a file that can be written, or a new folder."""
    if kind not in FORMATS:
        hint = did_you_mean(kind, FORMATS, f"there are: {', '.join(FORMATS)}; COCO results are written by --json")
        raise UsageError(f"format: there is no {kind!r}", hint=hint)
    if not kind.startswith("yolo"):
        return writable_file(path)
    if content := next(writable_folder(path).iterdir(), None):
        what = f"cannot write YOLO's files to {Path(path)}: it is not empty, there is {content.name}"
        raise OutputError(what, hint="choose a new folder")
    return Path(path)


def _write_yolo(folder: Path, detections: Sequence[Detections], *, scores: bool) -> None:
    pairs = dict(named_sources(detections))
    names = class_list(detections)
    if all(found.label_names is None for found in detections):
        names = [str(label) for label in range(1, max(map(int, names), default=0) + 1)]
    for source, place in text_places(pairs).items():
        write_text(folder / "labels" / place, to_yolo(pairs[source], scores=scores))
    listed = json.dumps(names, ensure_ascii=False)  # is YAML, too
    write_text(folder / "data.yaml", f"train: images\nval: images\nnc: {len(names)}\nnames: {listed}\n")
