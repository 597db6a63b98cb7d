"""A disk cache of TensorRT-RTX's just-in-time compiled kernels: only the first load on a system compiles them.

A file holds the kernels of one engine on one kind of GPU, begins with their SHA-256 and is replaced as a whole. If it
is damaged, of another system or cannot be written, kernels are compiled again. Of several processes the last to write
wins; the kernels of another one are then compiled once more at most.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from frcnn.errors import OutputError
from frcnn.files import replacing
from frcnn.plugins.cuda.kernel_cache import default_cache, warn_not_kept

__all__ = ["RuntimeCache", "cache_key", "default_folder"]

_SCHEMA: Final = "frcnn runtime cache 1"  # changes when the key or the file means something else
_SUFFIX: Final = ".rtxcache"
_DIGEST_BYTES: Final = 32
_MAX_BYTES: Final = 1 << 30


def default_folder() -> Path | None:
    """Return the folder for TensorRT-RTX's kernels in the user's cache, or None; see ``default_cache``."""
    kernels = default_cache().folder
    return None if kernels is None else kernels.parent / "tensorrt-rtx"


def cache_key(
    engine: bytes, *, gpu: str, compute_capability: str, driver_cuda_version: str, tensorrt_version: str
) -> str:
    """Return the key of a cache, 64 hexadecimal digits; TensorRT checks the driver itself, more closely."""
    digest = hashlib.sha256(engine).hexdigest()
    parts = (_SCHEMA, gpu, compute_capability, driver_cuda_version, tensorrt_version, digest)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(slots=True)
class RuntimeCache:
    """The cache file of one key; the least recently used files beyond ``max_bytes`` in the folder are removed."""

    folder: Path
    key: str
    max_bytes: int = _MAX_BYTES
    _digest: bytes = field(default=b"", init=False)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.key}{_SUFFIX}"

    def read(self) -> bytes | None:
        """Return what was written last, or None if there is nothing or it is damaged."""
        with suppress(OSError):
            stored = self.path.read_bytes()
            content, digest = stored[_DIGEST_BYTES:], stored[:_DIGEST_BYTES]
            if hashlib.sha256(content).digest() == digest:
                self._digest = digest
                os.utime(self.path)  # the least recently used are removed first
                return content
        return None

    def write(self, content: bytes) -> None:
        """Write the content if it can be written and differs from what was read or written last."""
        digest = hashlib.sha256(content).digest()
        if digest == self._digest:
            return
        try:
            with replacing(self.path) as temporary:
                temporary.write_bytes(digest + content)
        except OutputError as error:
            warn_not_kept(self.folder, error.message)
            return
        self._digest = digest
        with suppress(OSError):
            self._evict()

    def _evict(self) -> None:
        """Remove the least recently used files until the rest is within bounds; ours stays."""
        files = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process has just removed it
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            if path != self.path:
                path.unlink(missing_ok=True)
                total -= size
