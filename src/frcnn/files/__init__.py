"""Files are read with limits, and written whole or not at all: write beside, then rename.

In: paths and bytes.
Out: files, and an ``OutputError`` where one cannot be written; ``archive`` reads and writes engine artifacts.

A writer holds a lock on its temporary file, and the system takes the lock back when a process dies, however it dies.
So the next writer of the same file knows what was left behind from what is being written, and removes it.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from frcnn.errors import FrcnnError, OutputError, UsageError, one_line

__all__ = [
    "decode_text",
    "file_sha256",
    "missing_file",
    "native_path",
    "read_small_text",
    "replacing",
    "standard_output",
    "temporary_folder",
    "writable_file",
    "writable_folder",
    "write_text",
]

E = TypeVar("E", bound=FrcnnError)

_fcntl: ModuleType | None = None if os.name == "nt" else importlib.import_module("fcntl")
"""Locks; without them what a killed process leaves behind stays."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; rename it over ``path`` when the block succeeds.

    When the block fails or is interrupted the temporary file is removed and ``path`` is as it was. A process that is
    killed leaves ``.name.N.tmp.suffix``, which the next writer of ``path`` removes. Missing parent folders are made.
    The temporary name keeps the suffix, for writers that choose a format by it; the writer must fill the file that is
    there, not put another in its place.
    """
    target = writable_file(path)
    with _reporting(f"write {target}"):
        handle, temporary = _temporary_file(target)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
        finally:
            with suppress(OSError):
                if handle is None or _is_at(handle, temporary):  # once renamed, the name may be another writer's
                    temporary.unlink(missing_ok=True)
            if handle is not None:
                os.close(handle)


@contextmanager
def _reporting(
    what: str, *, hint: str = "choose another output path with -o", passing: tuple[type[OSError], ...] = ()
) -> Iterator[None]:
    """Raise an OSError as an OutputError, except those to pass on."""
    try:
        yield
    except passing:
        raise
    except OSError as error:
        raise OutputError(f"cannot {what}: {one_line(error)}", hint=hint) from error


def _temporary_file(target: Path) -> tuple[int | None, Path]:
    """Make an empty file beside the target under the first number that no living writer has; remove what was abandoned.

    Return what holds its lock (None where the system has no locks), and its path.
    """
    paths = (target.with_name(f".{target.stem}.{number}.tmp{target.suffix}") for number in count(1))
    for path in paths:
        while True:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                if _remove_abandoned(path):
                    continue
                break
            if _is_locked(handle, path):
                for further in paths:
                    if not os.path.lexists(further):
                        return handle, path
                    _remove_abandoned(further)
            os.close(handle)
            if _fcntl is None:
                return None, path
    raise AssertionError("numbers do not end")


def _is_locked(handle: int, path: Path) -> bool:
    """Lock a new file; False where there are no locks, or another writer took it for abandoned before it was locked."""
    if _fcntl is None:
        return False
    with suppress(OSError):  # a file system without locks: nothing on it looks abandoned
        _fcntl.flock(handle, _fcntl.LOCK_EX)
    return _is_at(handle, path)


def _remove_abandoned(path: Path) -> bool:
    """Remove a temporary file whose writer is gone; return whether its name may be free now."""
    if _fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:  # another user's, or no file at all
        return False
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        if _is_at(handle, path):
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file still has this path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that is gone after the block, for files that go from one library to another."""
    with _reporting("make a temporary folder", hint="set TMPDIR to a folder that can be written"):
        folder = tempfile.TemporaryDirectory(prefix="frcnn-", ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


@contextmanager
def native_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name under which a library in C++ opens a file: its path, or a link to it while the block runs.

    Such libraries take names in UTF-8. Of another, OpenCV is a segmentation fault.
    """
    if _is_utf8(path):
        yield os.fspath(path)
        return
    with temporary_folder() as folder:
        link = folder / f"file{Path(path).suffix}"
        with _reporting(f"link to {Path(path)}, whose name is not UTF-8", hint="rename it"):
            link.symlink_to(Path(path).absolute())
        if not _is_utf8(link):
            raise OutputError(f"cannot open {Path(path)}: its name is not UTF-8, nor is {link}", hint="rename it")
        yield str(link)


def _is_utf8(path: str | os.PathLike[str]) -> bool:
    try:
        return os.fsencode(path) == os.fspath(path).encode()
    except UnicodeEncodeError:  # a byte that is no UTF-8 came as a lone surrogate
        return False


@contextmanager
def standard_output() -> Iterator[None]:
    """Write to standard output in the block; what it takes late, only a flush tells."""
    with _reporting("write standard output", hint="send it elsewhere, or name a file", passing=(BrokenPipeError,)):
        yield


def decode_text(data: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16 with one; else raise UnicodeDecodeError."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def read_small_text(path: Path, *, option: str, what: str, limit: int, hint: str) -> str:
    """Return the text of an option's file of at most ``limit`` bytes; UsageError where it is no such file."""
    try:
        if path.stat().st_size > limit:
            raise UsageError(f"{option}: {path} is too large for {what}", hint=hint)
        return decode_text(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {one_line(error)}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}: {path} is no UTF-8 text", hint=hint) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 text file, or none."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable_file(path: str | os.PathLike[str]) -> Path:
    """Make the folder of a file to be written if it is missing, and return the file's path."""
    file = Path(path)
    if file.is_dir():
        raise OutputError(f"cannot write {file}: it is a folder", hint="name a file")
    writable_folder(file.parent)
    return file


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder if it is missing and return its path."""
    folder = Path(path)
    with _reporting(f"make the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write into the folder {folder}: permission denied", hint="choose another with -o")
    return folder


def missing_file(path: str | os.PathLike[str], kind: type[E], *, hint: str = "check the path") -> E:
    """Return the error of a file that is not there; it may be an address, or a link to what is not there."""
    if address := re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", os.fspath(path)):  # a Path has one slash only
        return kind(f"{address[1]}://{address[2]}: expected a file, got an address", hint="download or record it first")
    if os.path.lexists(path):
        hint = "get it first, as with git annex get or dvc pull"
        return kind(f"{Path(path)}: a link to a file that is not there", hint=hint)
    return kind(f"{Path(path)}: no such file or folder", hint=hint)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
