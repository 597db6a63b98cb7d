"""What runs in the actors: a worker detects in a part, and writes the part's file."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

from frcnn.errors import FrcnnError
from frcnn.runtime.dependencies import import_pyarrow, import_ray
from frcnn.runtime.ray.detector import RayDetector
from frcnn.runtime.ray.parquet_images import is_row, take
from frcnn.runtime.ray.rows import IMAGE, table
from frcnn.runtime.ray.storage import Storage


class Tries:
    """Counts how often a part was begun: Ray itself begins one again for ever that is the end of its worker."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, file: str) -> int:
        """Return how often the part was begun before."""
        self._counts[file] += 1
        return self._counts[file] - 1


class PartDetector:
    """Detects in the images of a part, and writes their rows to the part's file."""

    def __init__(
        self,
        source: Storage,
        target: Storage,
        column: str | None,
        options: dict[str, Any],
        tries: Any,
        retries: int,
    ) -> None:
        self._source, self._target, self._column = source, target, column
        self._tries, self._retries = tries, retries
        self._failed: FrcnnError | None = None
        try:
            self._detector = RayDetector(**options)
        except FrcnnError as error:
            self._failed = error

    def __call__(self, batch: Any) -> Any:
        """Take parts, ``file`` and ``images``; return errors, pickled: raised, they would reach Ray's log only."""
        pa = import_pyarrow()
        return pa.table({"error": pa.array(map(self._error_of, batch.to_pylist()), pa.binary())})

    def _error_of(self, part: dict[str, Any]) -> bytes | None:
        try:
            if self._failed is not None:
                raise self._failed
            self._detect(part["file"], part["images"])
        except FrcnnError as error:
            return pickle.dumps(error)
        return None

    def _detect(self, file: str, images: list[str]) -> None:
        if self._target.at(f"{self._target.name}/{file}").exists():  # by a worker that died after it
            return
        if (before := import_ray().get(self._tries.begin.remote(file))) > self._retries:
            what = f"workers died {before} times in the images from {images[0]} to {images[-1]}"
            raise FrcnnError(what, hint="is one too large for a worker's memory? part_size=1 finds which")
        pa = import_pyarrow()
        rows = table(self._detector.detect(self._images(images), self._source))
        rows = rows.add_column(0, pa.field(IMAGE, pa.string(), nullable=False), pa.array(images))
        content = pa.BufferOutputStream()
        import_pyarrow("pyarrow.parquet").write_table(rows, content)
        self._target.write(file, content.getvalue())

    def _images(self, names: Sequence[str]) -> list[Any]:
        """Return what the detector takes for each name: the name, or the bytes of a row of Parquet."""
        if self._column is None or not all(is_row(name) for name in names):
            return list(names)
        rows: dict[str, list[int]] = {}
        for name in names:
            file, _, row = name.rpartition("#")
            rows.setdefault(file, []).append(int(row))
        return [image for file, some in rows.items() for image in take(self._source.at(file), self._column, some)]
