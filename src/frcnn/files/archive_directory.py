"""The directory of an artifact's zip, read without trust.

It is parsed by :mod:`zipfile` and then checked: a name that is not plain, a link, a compressed, encrypted or
overlapping entry is refused, and what is held in memory is bounded whatever the zip claims.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from frcnn.spec import LONGEST_MANIFEST_BYTES
from frcnn.spec.engine import MANIFEST_PART, PART_NAME

__all__ = ["DamagedError", "Entry", "fault_of_names", "is_archive", "open_bounded", "read_directory"]

_MAX_BYTES: Final = LONGEST_MANIFEST_BYTES  # of a directory, or of a manifest
_LONGEST_NAME: Final = 200
_UTF8_NAME, _ENCRYPTED = 0x800, 0x1
_HEADER: Final = struct.Struct("<4s5H3L2H")
_SIGNATURE: Final = b"PK\x03\x04"


class DamagedError(Exception):
    """A file is no archive as we write them; the message names no file."""


class Entry(NamedTuple):
    """Where an entry's bytes are, and the CRC-32 that the zip lists for them."""

    offset: int
    size: int
    crc: int


class _Bounded(io.BufferedReader):
    """A file that returns no more bytes at once than a directory may have."""

    def __init__(self, file: io.FileIO, max_bytes: int) -> None:
        super().__init__(file)
        self._max_bytes = max_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        maximum = self._max_bytes
        data = super().read(maximum + 1 if size is None or size < 0 else min(size, maximum + 1))
        if len(data) > maximum:
            raise zipfile.BadZipFile("it is too large")
        return data


def open_bounded(path: Path, max_bytes: int = _MAX_BYTES) -> io.BufferedReader:
    """Open a file whose zip directory is to be read: no read of it takes more than ``max_bytes`` of memory."""
    return _Bounded(io.FileIO(path), max_bytes)


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return whether a file can be read and begins as an archive does, which a damaged one may."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size + len(MANIFEST_PART))
    except OSError:
        return False
    return head.startswith(_SIGNATURE) and head[_HEADER.size :] == MANIFEST_PART.encode()


def read_directory(file: io.BufferedReader) -> dict[str, Entry]:
    """Return where every entry is, by name, in the order of the file; the manifest is the first."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, ValueError, OSError, OverflowError, NotImplementedError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise DamagedError(f"no readable zip directory at its end, it may be truncated ({reason})") from error
    infos.sort(key=lambda info: info.header_offset)
    if not infos or infos[0].orig_filename != MANIFEST_PART or infos[0].header_offset != 0:
        raise DamagedError(f"it does not begin with {MANIFEST_PART}")
    if infos[0].file_size > _MAX_BYTES:
        raise DamagedError(f"{MANIFEST_PART} has {infos[0].file_size:,} bytes, expected {_MAX_BYTES:,} at most")
    fault = fault_of_names([info.orig_filename for info in infos])
    if fault is not None:
        raise DamagedError(fault)
    entries, position = {}, 0
    for info in infos:
        _check_plain(info)
        if info.header_offset < position:
            raise DamagedError(f"the entry {info.orig_filename} overlaps the one before it")
        entry = entries[info.orig_filename] = _locate(file, info)
        position = entry.offset + entry.size
        if position > end:
            raise DamagedError(f"the entry {info.orig_filename} goes beyond the end of the parts")
    return entries


def fault_of_names(names: Sequence[str]) -> str | None:
    """Return what is wrong with the names of entries; None: each is a plain file of its own on every system."""
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
    return None


def _check_plain(info: zipfile.ZipInfo) -> None:
    """Refuse an entry that is anything but the bytes of a regular file as they are."""
    name = info.orig_filename
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise DamagedError(f"the entry {name} is a link or another special file")
    if info.flag_bits & _ENCRYPTED:
        raise DamagedError(f"the entry {name} is encrypted")
    if info.flag_bits & ~_UTF8_NAME:
        raise DamagedError(f"the entry {name} has the flags {info.flag_bits:#x}, expected none")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise DamagedError(f"the entry {name} is compressed, expected its bytes as they are")


def _locate(file: io.BufferedReader, info: zipfile.ZipInfo) -> Entry:
    """Return where an entry's bytes are; the header in front of them must be the directory's."""
    file.seek(info.header_offset)
    header = file.read(_HEADER.size)
    if len(header) == _HEADER.size and header.startswith(_SIGNATURE):
        _, _, flags, method, *_, name_bytes, extra_bytes = _HEADER.unpack(header)
        name = file.read(name_bytes)
        if (name, flags, method) == (info.orig_filename.encode(), info.flag_bits, info.compress_type):
            offset = info.header_offset + len(header) + name_bytes + extra_bytes
            return Entry(offset, info.file_size, info.CRC)
    raise DamagedError(f"the entry {info.orig_filename} has another header than the zip lists")
