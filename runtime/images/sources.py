"""What is detected in: files, folders, patterns, lists, addresses, cameras; and names of annotated copies."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal

from frcnn.errors import ImageError, UsageError, one_line, printable, without_credentials
from frcnn.files import decode_text, missing_file
from frcnn.log import LOGGER, warn_once
from frcnn.runtime.images.addresses import STREAM_SCHEMES, WEB_SCHEMES, file_name, scheme_of
from frcnn.runtime.images.decode import is_image
from frcnn.runtime.images.video import VIDEO_SUFFIXES

IMAGE_SUFFIXES: Final = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
STANDARD_INPUT: Final = "-"
_JPEG_SUFFIXES: Final = frozenset({".jfif", ".jpe", ".jpeg", ".jpg"})
_KNOWN: Final = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_CAMERA: Final = re.compile(r"(/dev/video)?([0-9]{1,3})")
_PATTERN: Final = re.compile(r"[*?[]")
_HIDDEN: Final = re.compile(r"(?:^|[/\\])\.[^./\\]")
_LIST: Final = ".txt"

Kind = Literal["image", "encoded", "video", "web", "live"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """One thing to detect in.

    Attributes:
        kind: an image file, the bytes of one, a video file, what a web address turns out to be, a camera or stream.
        name: what results and messages call it; an address is there without its password.
        at: the path, bytes, address or number of the camera.
        place: of its annotated copy in the folder of all, but for the suffix.
    """

    kind: Kind
    name: str
    at: Path | bytes | str | int
    place: Path


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix; all other files are images."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def files_in_folder(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the image and video files of a folder, sorted by name, and warn of what is left out, counted by kind.

    Hidden files are left out, and sub-folders unless ``recursive``. Links to files that are not there are among the
    files.
    """
    try:
        found = list(_tree(folder)) if recursive else sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{error.filename}: the folder cannot be read: {one_line(error)}") from error
    kinds = {path: _left_out(path) for path in found}
    files = [path for path, kind in kinds.items() if kind is None]
    counts = Counter(kind for kind in kinds.values() if kind)
    left_out = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    if not files:
        deeper = "" if recursive else "; folders inside it are not searched (frcnn detect --recursive does)"
        raise ImageError(
            f"{folder}: expected images or videos, the folder has none (but {left_out or 'nothing'})",
            hint=f"files ending in {', '.join(sorted(_KNOWN))} are read{deeper}",
        )
    if left_out:
        warn_once(f"{folder}: {counts.total()} of {len(found)} are left out: {left_out}")
    return files


def _tree(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it but hidden ones, which are entered once however they are linked.

    One that cannot be read is warned of, but for the first.
    """
    entered = {folder.resolve()}

    def is_new(path: Path) -> bool:
        before = len(entered)
        entered.add(path.resolve())
        return len(entered) > before

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        LOGGER.warning("frcnn: %s: the folder cannot be read: %s", printable(str(error.filename)), one_line(error))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        folders[:] = [f for f in sorted(folders) if not f.startswith(".") and is_new(Path(place, f))]
        yield from (Path(place, name) for name in sorted(files))


def _left_out(path: Path) -> str | None:
    """Return what kind of thing in a folder is left out; empty where nobody misses it, None for what is read."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return "hidden" if suffix in _KNOWN else ""
    if path.is_dir():
        return "folder"
    if suffix not in _KNOWN:
        return suffix or "without a suffix"
    return None if path.is_file() or not path.exists() else "pipe or device"


def sources_of(arguments: Iterable[str], *, recursive: bool = False) -> tuple[list[Source], dict[str, ImageError]]:
    """Return what arguments stand for, each thing once, in order; and the errors of what cannot be used, by name.

    An argument is a file; a folder; a pattern; a ``.txt`` file of arguments, one a line, whose paths begin at its
    folder; ``-``, standard input, for such lines or an image; the address of an image, video or stream; or a camera's
    number. What is there as a file is that file.
    """
    found = _Found(recursive)
    for argument in arguments:
        found.add(argument)
    return list(found.sources.values()), found.errors


def files_of(arguments: Iterable[str]) -> tuple[list[Path], dict[str, ImageError]]:
    """Return the files alone of what arguments stand for, see :func:`sources_of`; the rest is among the errors."""
    sources, errors = sources_of(arguments)
    files = [source.at for source in sources if isinstance(source.at, Path)]
    others = [source.name for source in sources if not isinstance(source.at, Path)]
    return files, errors | {name: missing_file(name, ImageError) for name in others}


class _Found:
    """The sources of the arguments so far, by what makes them the same, and the errors by name."""

    def __init__(self, recursive: bool) -> None:
        self._recursive = recursive
        self.sources: dict[object, Source] = {}
        self.errors: dict[str, ImageError] = {}

    def add(self, argument: str, folder: Path | None = None) -> None:
        """Add an argument, or a line of a list in a folder."""
        try:
            self._add(argument, folder)
        except ImageError as error:
            self.errors[without_credentials(argument)] = error
        except OSError as error:
            self.errors[argument] = ImageError(f"{argument}: cannot be read: {one_line(error)}")

    def _add(self, argument: str, folder: Path | None) -> None:
        path, is_line = (folder or Path()) / argument, folder is not None
        scheme, camera = scheme_of(argument), _CAMERA.fullmatch(argument)
        if argument == STANDARD_INPUT and not is_line:
            self._standard_input()
        elif scheme in WEB_SCHEMES | STREAM_SCHEMES:
            kind: Kind = "web" if scheme in WEB_SCHEMES else "live"
            self._take(argument, kind, without_credentials(argument), argument, Path(file_name(argument)))
        elif camera and (camera[1] or not os.path.lexists(path)):
            self._take(camera[0], "live", argument, int(camera[2]), Path(f"camera-{camera[2]}"))
        elif path.is_dir():
            self._files(files_in_folder(path, recursive=self._recursive), under=path)
        elif path.suffix.lower() == _LIST and path.is_file() and not is_line and not is_image(_head(path)):
            self._lines(path.read_bytes(), argument, path.parent)
        elif _PATTERN.search(argument) and not os.path.lexists(path):
            self._matches(argument, folder or Path())
        elif path.exists():
            self._files([path])
        else:
            raise missing_file(path if is_line else argument, ImageError)

    def _take(self, key: object, kind: Kind, name: str, at: Path | bytes | str | int, place: Path) -> None:
        self.sources.setdefault(key, Source(kind=kind, name=name, at=at, place=place))

    def _files(self, files: Iterable[Path], *, under: Path | None = None) -> None:
        for file in files:
            if not file.exists():
                self.errors[str(file)] = missing_file(file, ImageError)
                continue
            kind: Kind = "video" if is_video(file) else "image"
            key = file.parent.resolve() / file.name  # two links to one file are two files
            self._take(key, kind, str(file), file, file.relative_to(under or file.parent))

    def _matches(self, pattern: str, folder: Path) -> None:
        """Add the files that match a pattern, or where only folders do, those in them."""
        anchor = Path(pattern).anchor
        root = Path(anchor) if anchor else folder
        try:
            found = sorted(root.glob(pattern.removeprefix(anchor)))
        except ValueError as error:
            raise ImageError(
                f"{pattern}: {error}", hint="** stands for folders at any depth: photos/**/*.jpg"
            ) from None
        if not _HIDDEN.search(pattern):
            found = [path for path in found if not _HIDDEN.search(str(path.relative_to(root)))]
        if not found:
            raise ImageError(f"{pattern}: no file has such a name", hint="** stands for folders: photos/**/*.jpg")
        files = [path for path in found if not path.is_dir()]
        self._files(files)
        for path in () if files else found:
            self.add(str(path))

    def _lines(self, content: bytes, name: str, folder: Path) -> None:
        try:
            text = decode_text(content)
        except UnicodeDecodeError:  # names that are not UTF-8
            text = os.fsdecode(content)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines or "\0" in text:
            got = "other bytes" if lines else "nothing"
            raise ImageError(f"{name}: expected paths, one a line, or an image, got {got}")
        for line in lines:
            self.add(line, folder)

    def _standard_input(self) -> None:
        content = sys.stdin.buffer.read()
        if is_image(content[:16]):
            self._take(STANDARD_INPUT, "encoded", "standard input", content, Path("standard-input"))
        else:
            self._lines(content, "standard input", Path())


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def output_names(files: Iterable[Path]) -> dict[Path, str]:
    """Return the name of each file's annotated copy.

    JPEG stays JPEG, other images become PNG, videos .mp4. Equal names are numbered: ``photo.jpg``, ``photo-2.jpg``.
    """
    taken: set[str] = set()
    return {file: _free(Path(file.name), [".mp4" if is_video(file) else _image_suffix(file)], taken) for file in files}


def copies_of(sources: Iterable[Source], folder: Path) -> dict[Source, Path]:
    """Return where the annotated copy of each source goes, in folders as the sources are; see :func:`output_names`.

    That of a web address is an image's; should it be a video's, its name with .mp4 is free, too.
    """
    taken: set[str] = set()
    copies = {}
    for source in sources:
        is_moving = source.kind in ("video", "live")
        suffixes = [".mp4"] if is_moving else [_image_suffix(source.place)]
        copies[source] = folder / _free(source.place, suffixes + [".mp4"] * (source.kind == "web"), taken)
    return copies


def _image_suffix(path: Path) -> str:
    return path.suffix if path.suffix.lower() in _JPEG_SUFFIXES else ".png"


def _free(place: Path, suffixes: Sequence[str], taken: set[str]) -> str:
    """Return a place with the first of some suffixes, numbered so that with none of them it is taken; take all."""
    for number in count(1):
        stem = place.with_name(place.stem if number == 1 else f"{place.stem}-{number}")
        names = {f"{stem}{suffix}".lower() for suffix in suffixes}  # some file systems ignore case
        if taken.isdisjoint(names):
            taken |= names
            return f"{stem}{suffixes[0]}"
    raise AssertionError("numbers do not end")


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to overwrite an input."""
    read = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in read:
            raise UsageError(f"{output} is an input and would be overwritten", hint="choose another output")
