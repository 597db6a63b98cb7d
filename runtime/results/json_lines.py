"""Results as JSON Lines: one line per image or frame, written and flushed as soon as it is done.

The file is valid at every moment. If the process is killed, only the line being written is incomplete.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TextIO

from frcnn.errors import OutputError, one_line
from frcnn.files import writable_file

STANDARD_OUTPUT: Final = "-"


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Return the file of the lines while the one at ``path`` does not exist yet: ``r.json.partial.jsonl``."""
    return Path(f"{os.fspath(path)}.partial.jsonl")


class ResultLines:
    """A new file of JSON Lines, or ``"-"`` for standard output.

    An old one is removed, not emptied: another process that still writes to it keeps its own.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path: Path | None = None if path == STANDARD_OUTPUT else Path(path)
        self._stream: TextIO = sys.stdout if self._path is None else _fresh(self._path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(record, allow_nan=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._path is not None:
            with suppress(OSError):  # every line was flushed
                self._stream.close()

    def discard(self) -> None:
        """Close the file and remove it, unless another process has put its own in its place."""
        if self._path is None:
            return
        with suppress(OSError):
            is_own = os.path.samestat(os.fstat(self._stream.fileno()), self._path.stat())
            self.close()
            if is_own:
                self._path.unlink()

    def __enter__(self) -> Self:
        """Return the lines; the file is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def _fresh(path: Path) -> TextIO:
    writable_file(path)
    try:
        path.unlink(missing_ok=True)
        return path.open("x", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path | None, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path or 'standard output'}: {one_line(error)}", hint="choose another output path"
    )
