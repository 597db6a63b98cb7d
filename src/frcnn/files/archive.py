"""The file that an engine artifact is: a zip of stored parts, written whole and read without trust.

The first entry is ``manifest.json``, which lists the size and SHA-256 of every other one, so that a hash of the file
vouches for all of it. Nothing is compressed: a part takes as much memory as it has bytes in the file. The same parts
give the same bytes. No name in the file becomes a path on disk here.

A file that is missing, damaged or no such archive is an ``ArtifactError``. Its directory is parsed by :mod:`zipfile`
and then checked: a name that is not plain, a link, a compressed, encrypted or overlapping entry is refused, and what
is held in memory is bounded whatever the zip claims.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from frcnn.errors import ArtifactError, one_line
from frcnn.files import file_sha256, missing_file, replacing
from frcnn.spec import LONGEST_MANIFEST_BYTES
from frcnn.spec.engine import MANIFEST_PART, PART_NAME, Part

REBUILD: Final = "build the artifact again: frcnn build model.onnx"

Content = bytes | memoryview | Path  # a part's bytes, or the file that has them

_CHUNK_BYTES: Final = 1 << 20
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_MAX_BYTES: Final = LONGEST_MANIFEST_BYTES  # of a directory, or of a manifest
_LONGEST_NAME: Final = 200
_UTF8_NAME, _ENCRYPTED = 0x800, 0x1
_HEADER: Final = struct.Struct("<4s5H3L2H")
_SIGNATURE: Final = b"PK\x03\x04"


class _DamagedError(Exception):
    """A file is no archive as we write them; the message names no file."""


class _Entry(NamedTuple):
    """Where an entry's bytes are, and the CRC-32 that the zip lists for them."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive whose directory was checked; its parts are read on demand.

    ``manifest`` is where its first entry is, which has ``manifest_bytes``; ``entries`` are where the others are.
    """

    path: Path
    file_bytes: int
    manifest_bytes: bytes
    manifest: _Entry
    entries: Mapping[str, _Entry]

    def check_listed(self, parts: Mapping[str, Part]) -> None:
        """Refuse an archive that holds other parts, or parts of other sizes, than the manifest lists."""
        with _reported(self.path):
            for name, part in parts.items():
                self._entry(name, part)
            for name in self.entries:
                if name not in parts:
                    raise _DamagedError(f"the part {name} is not listed in {MANIFEST_PART}")

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
                raise _DamagedError("it was changed while it was read")
        return digest.hexdigest()

    def _entry(self, name: str, expected: Part) -> _Entry:
        entry = self.entries.get(name)
        if entry is None:
            raise _DamagedError(f"the part {name} is missing")
        if entry.size != expected.size_bytes:
            raise _DamagedError(f"the part {name} has {entry.size:,} bytes, expected {expected.size_bytes:,}")
        return entry


def write_archive(
    path: str | os.PathLike[str],
    manifest: bytes | Callable[[Mapping[str, Part]], bytes],
    parts: Iterable[tuple[str, Content]],
) -> dict[str, Part]:
    """Write an archive, whole or not at all, and return size and SHA-256 of every part.

    ``manifest`` is JSON, or makes it of the parts' sizes and hashes. The parts are written in their order; files must
    not change meanwhile.
    """
    pairs = list(parts)
    if fault := _fault_of_names([MANIFEST_PART, *(name for name, _ in pairs)]):
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
    with _reported(file_path), BoundedFile(file_path) as file:
        entries = _read_directory(file)
        manifest = entries.pop(MANIFEST_PART)
        file.seek(manifest.offset)
        text = file.read(manifest.size)
        if zlib.crc32(text) != manifest.crc:
            raise _DamagedError(f"{MANIFEST_PART} has another CRC-32 than the zip lists")
        file_bytes = os.fstat(file.fileno()).st_size
    return Archive(path=file_path, file_bytes=file_bytes, manifest_bytes=text, manifest=manifest, entries=entries)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Raise an error of a file as an ArtifactError."""
    try:
        yield
    except _DamagedError as error:
        raise ArtifactError(f"{path}: the engine artifact is damaged: {error}", hint=REBUILD) from error
    except FileNotFoundError as error:
        raise missing_file(path, ArtifactError) from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {one_line(error)}", hint="check the path") from error


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
        raise _DamagedError(f"the part {name} has the SHA-256 {found.hexdigest()}, expected {expected.sha256}")


class BoundedFile(io.BufferedReader):
    """A file whose zip directory is to be read: no read of it takes more than ``max_bytes`` of memory."""

    def __init__(self, path: Path, max_bytes: int = _MAX_BYTES) -> None:
        super().__init__(io.FileIO(path))
        self._max_bytes = max_bytes

    def read(self, size: int | None = -1, /) -> bytes:  # noqa: D102
        maximum = self._max_bytes
        data = super().read(maximum + 1 if size is None or size < 0 else min(size, maximum + 1))
        if len(data) > maximum:
            raise zipfile.BadZipFile("it is too large")
        return data


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return whether a file can be read and begins as an archive does, which a damaged one may."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size + len(MANIFEST_PART))
    except OSError:
        return False
    return head.startswith(_SIGNATURE) and head[_HEADER.size :] == MANIFEST_PART.encode()


def _read_directory(file: io.BufferedReader) -> dict[str, _Entry]:
    """Return where every entry is, by name, in the order of the file; the manifest is the first."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, ValueError, OSError, OverflowError, NotImplementedError, struct.error) as error:
        raise _DamagedError(f"no readable zip directory at its end, it may be truncated ({one_line(error)})") from error
    infos.sort(key=lambda info: info.header_offset)
    if not infos or infos[0].orig_filename != MANIFEST_PART or infos[0].header_offset != 0:
        raise _DamagedError(f"it does not begin with {MANIFEST_PART}")
    if infos[0].file_size > _MAX_BYTES:
        raise _DamagedError(f"{MANIFEST_PART} has {infos[0].file_size:,} bytes, expected {_MAX_BYTES:,} at most")
    if fault := _fault_of_names([info.orig_filename for info in infos]):
        raise _DamagedError(fault)
    entries, position = {}, 0
    for info in infos:
        name, fault = info.orig_filename, ""
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            fault = "is a link or another special file"
        elif info.flag_bits & _ENCRYPTED:
            fault = "is encrypted"
        elif info.flag_bits & ~_UTF8_NAME:
            fault = f"has the flags {info.flag_bits:#x}, expected none"
        elif info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            fault = "is compressed, expected its bytes as they are"
        elif info.header_offset < position:
            fault = "overlaps the one before it"
        if fault:
            raise _DamagedError(f"the entry {name} {fault}")
        entry = entries[name] = _locate(file, info)
        position = entry.offset + entry.size
        if position > end:
            raise _DamagedError(f"the entry {name} goes beyond the end of the parts")
    return entries


def _fault_of_names(names: Sequence[str]) -> str:
    """Return what is wrong with the names of entries; empty: each is a plain file of its own on every system."""
    taken: set[str] = set()
    for name in names:
        if len(name) > _LONGEST_NAME or re.match(PART_NAME, name) is None:
            return f"the entry name {name[:_LONGEST_NAME]!a} is not allowed"
        if name.lower() in taken:
            return f"the entry {name} is there twice"
        taken.add(name.lower())
    for name in names:
        if any(name[: slash.start()].lower() in taken for slash in re.finditer("/", name)):
            return f"the entry {name} lies in one that is no folder"
    return ""


def _locate(file: io.BufferedReader, info: zipfile.ZipInfo) -> _Entry:
    """Return where an entry's bytes are; the header in front of them must be the directory's."""
    file.seek(info.header_offset)
    header = file.read(_HEADER.size)
    if len(header) == _HEADER.size and header.startswith(_SIGNATURE):
        _, _, flags, method, *_, name_bytes, extra_bytes = _HEADER.unpack(header)
        name = file.read(name_bytes)
        if (name, flags, method) == (info.orig_filename.encode(), info.flag_bits, info.compress_type):
            offset = info.header_offset + len(header) + name_bytes + extra_bytes
            return _Entry(offset, info.file_size, info.CRC)
    raise _DamagedError(f"the entry {info.orig_filename} has another header than the zip lists")
