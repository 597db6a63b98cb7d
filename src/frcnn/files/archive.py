"""The file that an engine artifact is: a zip of stored parts, written whole and read without trust.

The first entry is ``manifest.json``, which lists the size and SHA-256 of every other one, so that a hash of the file
vouches for all of it. Nothing is compressed: a part takes as much memory as it has bytes in the file. The same parts
give the same bytes. No name in the file becomes a path on disk here.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from frcnn.errors import ArtifactError
from frcnn.files import file_sha256, replacing
from frcnn.files.archive_directory import (
    DamagedError,
    Entry,
    fault_of_names,
    is_archive,
    open_bounded,
    read_directory,
)
from frcnn.spec.engine import MANIFEST_PART, Part

__all__ = ["REBUILD", "Archive", "Content", "is_archive", "open_archive", "write_archive"]

REBUILD: Final = "build the artifact again: frcnn build model.onnx"

Content = bytes | memoryview | Path
"""A part's bytes, or the file that has them."""

_CHUNK_BYTES: Final = 1 << 20
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive whose directory was checked; its parts are read on demand.

    Attributes:
        path: the file.
        file_bytes: its size.
        manifest_bytes: its first entry.
        manifest: where that is.
        entries: where the other entries are, by name.
    """

    path: Path
    file_bytes: int
    manifest_bytes: bytes
    manifest: Entry
    entries: Mapping[str, Entry]

    def check_listed(self, parts: Mapping[str, Part]) -> None:
        """Refuse an archive that holds other parts, or parts of other sizes, than the manifest lists."""
        with _reported(self.path):
            for name, part in parts.items():
                self._entry(name, part)
            for name in self.entries:
                if name not in parts:
                    raise DamagedError(f"the part {name} is not listed in {MANIFEST_PART}")

    def read(self, name: str, expected: Part) -> bytes:
        """Return a part's bytes, ``expected.size_bytes`` of them."""
        with _reported(self.path), self.path.open("rb") as file:
            entry = self._entry(name, expected)
            file.seek(entry.offset)
            data = file.read(entry.size)
            _check_hash(name, hashlib.sha256(data), expected)
            return data

    def stream(self, name: str, expected: Part) -> Iterator[bytes]:
        """Yield a part's bytes a little at a time; they are right only if the last of them is followed by no error."""
        digest = hashlib.sha256()
        with _reported(self.path), self.path.open("rb") as file:
            entry = self._entry(name, expected)
            for chunk in _chunks(file, entry.offset, entry.size):
                digest.update(chunk)
                yield chunk
            _check_hash(name, digest, expected)

    def sha256(self) -> str:
        """Return the file's SHA-256, which vouches for the manifest that was read and so for all that it lists."""
        digest = hashlib.sha256()
        with _reported(self.path), self.path.open("rb") as file:
            # The manifest that was read must be in the very bytes that are hashed: a file put in its place is noticed.
            head = file.read(self.manifest.offset + self.manifest.size)
            digest.update(head)
            for chunk in _chunks(file, len(head), self.file_bytes - len(head)):
                digest.update(chunk)
            if head[self.manifest.offset :] != self.manifest_bytes or file.tell() != self.file_bytes or file.read(1):
                raise DamagedError("it was changed while it was read")
        return digest.hexdigest()

    def _entry(self, name: str, expected: Part) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            raise DamagedError(f"the part {name} is missing")
        if entry.size != expected.size_bytes:
            raise DamagedError(f"the part {name} has {entry.size:,} bytes, expected {expected.size_bytes:,}")
        return entry


def write_archive(
    path: str | os.PathLike[str],
    manifest: bytes | Callable[[Mapping[str, Part]], bytes],
    parts: Iterable[tuple[str, Content]],
) -> dict[str, Part]:
    """Write an archive, whole or not at all.

    Args:
        path: the file; replaced where there is one.
        manifest: its JSON, or a function that makes it of the parts' sizes and hashes.
        parts: name and content of each part, in the order in which they are written. Files must not change meanwhile.

    Returns:
        Size and SHA-256 of every part.
    """
    pairs = list(parts)
    fault = fault_of_names([MANIFEST_PART, *(name for name, _ in pairs)])
    if fault is not None:
        raise ValueError(f"parts: {fault}")
    listed = {name: _describe(content) for name, content in pairs}
    text = manifest if isinstance(manifest, bytes) else manifest(listed)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, MANIFEST_PART, text, _describe(text))
        for name, content in pairs:
            _add(archive, name, content, listed[name])
    return listed


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Read an archive's directory and manifest, and check that its entries are as :func:`write_archive` writes them."""
    file_path = Path(path)
    with _reported(file_path), open_bounded(file_path) as file:
        entries = read_directory(file)
        manifest = entries.pop(MANIFEST_PART)
        file.seek(manifest.offset)
        text = file.read(manifest.size)
        if zlib.crc32(text) != manifest.crc:
            raise DamagedError(f"{MANIFEST_PART} has another CRC-32 than the zip lists")
        file_bytes = os.fstat(file.fileno()).st_size
    return Archive(path=file_path, file_bytes=file_bytes, manifest_bytes=text, manifest=manifest, entries=entries)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Raise an error of a file as an ArtifactError."""
    try:
        yield
    except DamagedError as error:
        raise ArtifactError(f"{path}: the engine artifact is damaged: {error}", hint=REBUILD) from error
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file", hint="check the path") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}", hint="check the path") from error


def _describe(content: Content) -> Part:
    if isinstance(content, Path):
        return Part(size_bytes=content.stat().st_size, sha256=file_sha256(content))
    return Part(size_bytes=memoryview(content).nbytes, sha256=hashlib.sha256(content).hexdigest())


def _add(archive: zipfile.ZipFile, name: str, content: Content, part: Part) -> None:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.file_size = part.size_bytes  # tells zipfile whether 32 bits hold it
    with archive.open(entry, "w") as target:
        if not isinstance(content, Path):
            target.write(memoryview(content).cast("B"))
            return
        digest = hashlib.sha256()
        with content.open("rb") as file:
            for chunk in _chunks(file, 0, part.size_bytes):
                digest.update(chunk)
                target.write(chunk)
            if digest.hexdigest() != part.sha256 or file.read(1):
                raise ArtifactError(f"{content}: it was changed while it was packed", hint=REBUILD)


def _chunks(file: BinaryIO, begin: int, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file from ``begin`` on, ``size`` of them or fewer where it ends before."""
    file.seek(begin)
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        size -= len(chunk)
        yield chunk


def _check_hash(name: str, found: hashlib._Hash, expected: Part) -> None:
    if found.hexdigest() != expected.sha256:
        raise DamagedError(f"the part {name} has the SHA-256 {found.hexdigest()}, expected {expected.sha256}")
