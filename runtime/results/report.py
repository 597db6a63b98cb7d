"""The results of ``frcnn detect``: COCO results, the list of images, a table, and lines while it runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from frcnn.console import say, show_table
from frcnn.errors import ImageError
from frcnn.files import standard_output, write_text
from frcnn.runtime.dataset.ids import DatasetIds
from frcnn.runtime.detections import Detections
from frcnn.runtime.results.json_lines import STANDARD_OUTPUT, ResultLines


@dataclass(slots=True, kw_only=True)
class _File:
    """The detections in one file so far."""

    size: str
    images: int = 0
    classes: Counter[str] = field(default_factory=Counter)


class Report:
    """Collects the detections of images and video frames.

    Images have the ids of ``add``, or those of ``ids``, the data set's own, whose categories then are the classes.
    Each is also written to the files ``lines`` as soon as it is added: its entry of ``images`` with its entries of
    ``results`` under ``results``.

    Attributes:
        images: COCO ``images``: a dictionary per image or frame, with ``id``, ``height``, ``width``, ``file_name`` and
            what else is known of it: of a video ``frame`` (from 0) and ``time_s``, and the path of its ``copy``.
        results: COCO results: a dictionary per object, with ``file_name`` and so on in addition.
            Both are empty unless ``is_kept``: a camera may run for weeks.
        detections: what was added, if ``keeps_detections``.
        other_sizes: the files that the data set has with another size.
    """

    def __init__(
        self,
        label_names: tuple[str, ...] | None,
        *,
        lines: Sequence[ResultLines] = (),
        ids: DatasetIds | None = None,
        is_kept: bool = True,
        keeps_detections: bool = False,
    ) -> None:
        self._label_names = label_names
        self._lines = lines
        self._ids = ids
        self._is_kept = is_kept
        self._keeps_detections = keeps_detections
        self._files: dict[str, _File] = {}
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.other_sizes: list[str] = []
        self.detections: list[Detections] = []

    @property
    def image_count(self) -> int:
        """How many images and frames there are."""
        return sum(file.images for file in self._files.values())

    @property
    def object_count(self) -> int:
        """How many detections there are."""
        return sum(file.classes.total() for file in self._files.values())

    @property
    def without_objects(self) -> list[str]:
        """The files without detections."""
        return [name for name, file in self._files.items() if not file.classes]

    def add(self, image_id: int | str, file_name: str, found: Detections, **known: object) -> None:
        """Add an image or frame, and what else is known of it; refuse a frame if detections are kept, as of images."""
        if self._keeps_detections and "frame" in known:
            raise ImageError(f"{file_name} is a video, and --export is for images", hint="give --json or --jsonl")
        height, width = found.image_size
        categories = None
        if self._ids is not None:
            listed, categories = self._ids.images[file_name], self._ids.categories
            image_id = image_id if listed.id is None else listed.id
            if listed.size not in (None, found.image_size):
                self.other_sizes.append(file_name)
        place = {"file_name": file_name, **known}
        image = {"id": image_id, **place, "height": height, "width": width}
        results = [{**entry, **place} for entry in found.to_coco(image_id, categories)]
        if self._is_kept:
            self.images.append(image)
            self.results.extend(results)
        if self._keeps_detections:
            self.detections.append(found)
        file = self._files.setdefault(file_name, _File(size=f"{width}x{height}"))
        file.images += 1
        file.classes.update(found.class_names)
        for lines in self._lines:
            lines.write({**image, "results": results})

    def write_results(self, path: str) -> None:
        """Write the COCO results; ``-`` is standard output."""
        _write(path, self.results)

    def write_index(self, path: str) -> None:
        """Write the COCO list of images and categories, without annotations; ``-`` is standard output."""
        names = self._label_names
        used = sorted({entry["category_id"] for entry in self.results})
        labels = [(label, str(label)) for label in used] if names is None else list(enumerate(names))[1:]
        if self._ids is not None:
            labels = list(self._ids.names.items())
        categories = [{"id": label, "name": name} for label, name in labels]
        _write(path, {"images": self.images, "annotations": [], "categories": categories})

    def show(self) -> None:
        """Print a table with a row per file."""
        rows = []
        for name, file in self._files.items():
            counts = ", ".join(f"{count} {label}" for label, count in file.classes.most_common())
            rows.append((name, counts or "nothing", str(file.classes.total()), str(file.images), file.size))
        show_table("detections", ("file", "found", "objects", "frames", "width x height"), rows, text_columns=(0, 1))


def _write(path: str, content: Any) -> None:
    text = json.dumps(content, allow_nan=False)
    if path != STANDARD_OUTPUT:
        write_text(path, text + "\n")
        return
    with standard_output():
        say(text, exact=True)
        sys.stdout.flush()
