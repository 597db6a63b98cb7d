"""Files on this machine and in object stores, through pyarrow's file systems."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from frcnn.errors import ImageError, OutputError, UsageError, one_line
from frcnn.files import missing_file, replacing, writable_folder
from frcnn.runtime.dependencies import import_pyarrow
from frcnn.runtime.images.sources import IMAGE_SUFFIXES

T = TypeVar("T")

_FILES_AT_ONCE: Final = 8
"""How many files are read ahead at once: an object store takes tens of milliseconds to answer."""
_REASONS: Final = "is the address right, and may this user read it?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A place on a file system, which travels to other processes.

    Attributes:
        files: pyarrow's file system, with the options and credentials of the address.
        path: of the place on it.
        scheme: before the path in a file's name, as ``s3://``; empty for this machine's files.
    """

    files: Any
    path: str
    scheme: str

    @classmethod
    def of(cls, address: str | os.PathLike[str]) -> Storage:
        """Return the storage of a path, or of an address that pyarrow knows: s3, gs, abfs, hdfs, file."""
        text = os.fspath(address)
        scheme = f"{urlsplit(text).scheme}://" if "://" in text else ""
        filesystems = import_pyarrow("pyarrow.fs")
        try:
            files, path = filesystems.FileSystem.from_uri(text if scheme else str(Path(text).absolute()))
        except (OSError, ValueError, NotImplementedError) as error:
            raise UsageError(f"{text}: no file system of pyarrow's: {_reason(error)}", hint=_REASONS) from error
        return cls(files=files, path=path, scheme="" if scheme == "file://" else scheme)

    @property
    def is_local(self) -> bool:
        """Whether the files are this machine's."""
        return not self.scheme

    @property
    def name(self) -> str:
        """The name of the place, without options and credentials."""
        return self.scheme + self.path

    def at(self, name: str) -> Storage:
        """Return the storage of a file by its name; a relative path begins at the folder of this one."""
        if self.scheme and name.startswith(self.scheme):
            return Storage(files=self.files, path=name.removeprefix(self.scheme), scheme=self.scheme)
        if "://" in name or (self.is_local and name.startswith("/")):
            return Storage.of(name)
        path = name if name.startswith("/") else str(PurePosixPath(self.path).parent / name)
        return Storage(files=self.files, path=path, scheme=self.scheme)

    def list(self, suffixes: Iterable[str], *, may_be_missing: bool = False) -> list[str]:
        """Return the names of the files with these suffixes in the place and deeper, sorted; hidden ones are left out.

        Of a place that is one file, its own name.
        """
        filesystems = import_pyarrow("pyarrow.fs")
        selector = filesystems.FileSelector(self.path, recursive=True, allow_not_found=may_be_missing)
        try:
            info = self.files.get_file_info(self.path)
            if info.type == filesystems.FileType.NotFound and not may_be_missing:
                raise missing_file(self.path, ImageError) if self.is_local else FileNotFoundError("nothing is there")
            found = [info] if info.is_file else self.files.get_file_info(selector)
        except (OSError, ValueError) as error:
            raise ImageError(f"{self.name}: cannot be listed: {_reason(error)}", hint=_REASONS) from error
        wanted, start = set(suffixes), 0 if info.is_file else len(self.path.rstrip("/")) + 1
        return sorted(
            self.scheme + file.path
            for file in found
            if file.is_file
            and PurePosixPath(file.path).suffix.lower() in wanted
            and not any(part.startswith((".", "_")) for part in file.path[start:].split("/"))
        )

    def read(self) -> bytes:
        """Return the content of the file."""
        try:
            with self.files.open_input_file(self.path) as file:
                content: bytes = file.read()
        except (OSError, ValueError) as error:
            raise ImageError(f"{self.name}: cannot be read: {_reason(error)}", hint=_REASONS) from error
        return content

    def exists(self) -> bool:
        """Return whether there is such a file."""
        return bool(self.files.get_file_info(self.path).is_file)

    def write(self, name: str, content: Any) -> None:
        """Write a file in the place, whole or not at all: an object store shows no half of one."""
        if self.is_local:
            with replacing(Path(self.path) / name) as temporary:
                temporary.write_bytes(content)
            return
        try:
            with self.files.open_output_stream(f"{self.path.rstrip('/')}/{name}") as file:
                file.write(content)
        except OSError as error:
            raise OutputError(f"cannot write {self.name}/{name}: {_reason(error)}", hint=_REASONS) from error

    def prepare(self) -> None:
        """Make the folder, if it is a local one."""
        if self.is_local:
            writable_folder(self.path)


def image_files(place: Storage) -> list[str]:
    """Return the names of the images in a folder and in those inside it."""
    names = place.list(IMAGE_SUFFIXES)
    if not names:
        what = "is it Parquet? then name the column of its images" if place.list([".parquet"]) else "check the address"
        raise ImageError(f"{place.name}: expected images, there are none", hint=what)
    return names


def read_ahead(read: Callable[[str], T], names: Iterable[str]) -> Iterator[Future[T]]:
    """Yield what a function returns or raises for each name, in order, a few names ahead in threads."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(_FILES_AT_ONCE, "frcnn-read") as pool:
        for name in names:
            waiting.append(pool.submit(read, name))
            if len(waiting) > _FILES_AT_ONCE:
                yield waiting.popleft()
        yield from waiting


def _reason(error: Exception) -> str:
    return one_line(error).split(". Detail:")[0]
