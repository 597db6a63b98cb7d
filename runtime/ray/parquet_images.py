"""Images in a column of Parquet: their bytes, whose images are called ``file.parquet#row``, or their paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from frcnn.errors import ImageError, UsageError, did_you_mean
from frcnn.runtime.dependencies import import_pyarrow
from frcnn.runtime.ray.storage import Storage

_ROW: Final = re.compile(r"\.parquet#\d+$")


def is_row(name: str) -> bool:
    """Return whether an image is in a row of Parquet, by its name."""
    return _ROW.search(name) is not None


def images_in_parquet(place: Storage, column: str) -> list[str]:
    """Return the names of the images in a column of Parquet: ``file#row``, or the paths that the column has."""
    parquet, types = import_pyarrow("pyarrow.parquet"), import_pyarrow("pyarrow").types
    names: dict[str, None] = {}
    for name in place.list([".parquet"]):
        at = place.at(name)
        with _reading(name):
            schema = parquet.read_schema(at.path, filesystem=at.files)
            if column not in schema.names:
                what = f"{name}: expected a column {column!r}, got {', '.join(schema.names)}"
                raise UsageError(what, hint=did_you_mean(column, schema.names, "name the column of the images"))
            kind = schema.field(column).type
            if types.is_string(kind) or types.is_large_string(kind):
                paths = parquet.read_table(at.path, columns=[column], filesystem=at.files).column(0).to_pylist()
                names.update(dict.fromkeys(at.at(path).name for path in paths if path is not None))
            elif types.is_binary(kind) or types.is_large_binary(kind):
                count = parquet.read_metadata(at.path, filesystem=at.files).num_rows
                names.update(dict.fromkeys(f"{name}#{row}" for row in range(count)))
            else:
                raise UsageError(f"{name}: {column!r} is {kind}", hint="expected the bytes of images, or their paths")
    if not names:
        raise ImageError(f"{place.name}: expected Parquet with images, there is none")
    return list(names)


def take(file: Storage, column: str, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the bytes in some rows, in order, with one group of rows in memory."""
    parquet, start = import_pyarrow("pyarrow.parquet"), 0
    with _reading(file.name), file.files.open_input_file(file.path) as content:
        groups = parquet.ParquetFile(content)
        for group in range(groups.num_row_groups):
            end = start + groups.metadata.row_group(group).num_rows
            if some := [row - start for row in rows if start <= row < end]:
                yield from groups.read_row_group(group, columns=[column]).column(0).take(some).to_pylist()
            start = end


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read as Parquet: {error}") from error
