"""The file and options that a detector was loaded from, by which another process loads it anew."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from frcnn.errors import ArtifactError
from frcnn.files import file_sha256
from frcnn.runtime.backend import Backend
from frcnn.runtime.loading import load_backend
from frcnn.spec import Manifest

_HINT: Final = "a detector that was pickled or forked is loaded anew: its file must lie unchanged at the same path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a detector was loaded from.

    Attributes:
        path: Absolute path of the file.
        options: Those of ``Detector.load``, without ``max_pixels``.
        state: What tells on this system whether the file was changed since.
        sha256: The file's, which another system can check; empty until it is needed.
    """

    path: Path
    options: dict[str, Any]
    state: tuple[int, ...]
    sha256: str = ""

    @classmethod
    def of(cls, path: str | os.PathLike[str], options: dict[str, Any]) -> Origin:
        """Return the origin of a detector that is to be loaded now."""
        whole = Path(path).absolute()
        return cls(path=whole, options=options, state=_state(whole))

    def load(self) -> tuple[Backend, Manifest]:
        """Load the file again; errors as ``Detector.load``, or an ``ArtifactError`` where it is another one now."""
        self._check()
        return load_backend(self.path, **self.options)

    def hashed(self) -> Origin:
        """Return the origin with the hash of the file; an ``ArtifactError`` where it is another one by then."""
        if self.sha256:
            return self
        self._check()
        return replace(self, sha256=file_sha256(self.path))

    def _check(self) -> None:
        try:
            same = file_sha256(self.path) == self.sha256 if self.sha256 else _state(self.path) == self.state
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot be read: {error.strerror or error}", hint=_HINT) from error
        if not same:
            raise ArtifactError(f"{self.path}: not the file any more that the detector was loaded from", hint=_HINT)


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:  # loading says what is wrong with it
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
