"""Compiled kernels on disk, shared by processes.

``cuda.core``'s file cache writes atomically and evicts what was read least recently. It stores raw bytes, so each entry
begins with its SHA-256: a damaged one is compiled anew and replaced. A cache that cannot be used costs time only; one
warning says so.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from frcnn.errors import MissingDependencyError, one_line
from frcnn.log import warn_once
from frcnn.plugins.cuda.dependencies import import_core_utility

_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KernelCache:
    """A folder of compiled kernels of at most ``max_bytes``, created by the first write; None keeps nothing."""

    folder: Path | None
    max_bytes: int = 256 * 2**20

    def read(self, key: bytes) -> bytes | None:
        """Return what was written under a key, or None where there is nothing or it is damaged."""
        with suppress(Exception):  # whatever is wrong with a cache, the kernel can be compiled
            if self.folder is not None and self.folder.is_dir():
                stored: bytes = self._open()[key]
                if hashlib.sha256(stored[_DIGEST_BYTES:]).digest() == stored[:_DIGEST_BYTES]:
                    return stored[_DIGEST_BYTES:]
        return None

    def write(self, key: bytes, code: bytes) -> None:
        """Keep code under a key, where the folder can be written."""
        if self.folder is not None:
            try:
                self._open()[key] = hashlib.sha256(code).digest() + code
            except MissingDependencyError as error:
                warn_not_kept(self.folder, error.message, hint=error.hint)
            except OSError as error:
                warn_not_kept(self.folder, one_line(error))
            except Exception as error:
                warn_not_kept(self.folder, f"{type(error).__name__}: {error}")

    def _open(self) -> Any:
        cache = import_core_utility("FileStreamProgramCache", why="keeping compiled kernels")
        return cache(self.folder, max_size_bytes=self.max_bytes)


def warn_not_kept(folder: Path, reason: object, *, hint: str = "FRCNN_CACHE_DIR names another folder") -> None:
    """Warn, once a process, that a cache keeps nothing, why, and how to change that."""
    warn_once(f"nothing is kept in the cache {folder}: {reason}; {hint}")


def default_cache(name: str = "kernels", max_bytes: int = 256 * 2**20) -> KernelCache:
    """Return the user's cache: ``name`` in ``$FRCNN_CACHE_DIR``, ``$XDG_CACHE_HOME/frcnn`` or ``~/.cache/frcnn``.

    Without a home folder nothing is kept.
    """
    if chosen := os.environ.get("FRCNN_CACHE_DIR"):
        return KernelCache(Path(chosen) / name, max_bytes)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return KernelCache(Path(xdg) / "frcnn" / name, max_bytes)
    try:
        return KernelCache(Path.home() / ".cache" / "frcnn" / name, max_bytes)
    except RuntimeError:
        return KernelCache(None)
