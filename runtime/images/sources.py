"""Input files of paths and folders, and names of their annotated copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from frcnn.errors import ImageError, UsageError
from frcnn.files import missing_file
from frcnn.log import warn_once
from frcnn.runtime.images.video import VIDEO_SUFFIXES

IMAGE_SUFFIXES: Final = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_JPEG_SUFFIXES: Final = frozenset({".jfif", ".jpe", ".jpeg", ".jpg"})
_KNOWN: Final = IMAGE_SUFFIXES | VIDEO_SUFFIXES


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix; all other files are images."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def files_in_folder(folder: Path) -> list[Path]:
    """Return the image and video files of a folder, sorted by name, and warn of what is left out, counted by kind.

    Sub-folders and hidden files are left out. Links to files that are not there are among the files.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    kinds = {path: _left_out(path) for path in found}
    files = [path for path, kind in kinds.items() if kind is None]
    counts = Counter(kind for kind in kinds.values() if kind)
    left_out = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    if not files:
        raise ImageError(
            f"{folder}: expected images or videos, the folder has none (but {left_out or 'nothing'})",
            hint=f"files ending in {', '.join(sorted(_KNOWN))} are read; folders inside it are not searched",
        )
    if left_out:
        warn_once(f"{folder}: {counts.total()} of {len(found)} are left out: {left_out}")
    return files


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


def files_of(arguments: Iterable[str]) -> tuple[list[Path], dict[str, ImageError]]:
    """Return the files of paths and folders, each once, in order; and the errors of the unusable arguments."""
    files: dict[Path, Path] = {}
    errors: dict[str, ImageError] = {}
    for argument in arguments:
        path = Path(argument)
        try:
            found = files_in_folder(path) if path.is_dir() else [path]
        except ImageError as error:
            errors[argument] = error
            continue
        for file in found:
            name = argument if file is path else str(file)
            if file.exists():  # two links to one file are two files
                files.setdefault(file.parent.resolve() / file.name, file)
            else:
                errors[name] = missing_file(name, ImageError)
    return list(files.values()), errors


def output_names(files: Iterable[Path]) -> dict[Path, str]:
    """Return the name of each file's annotated copy.

    JPEG stays JPEG, other images become PNG, videos .mp4. Equal names are numbered: ``photo.jpg``, ``photo-2.jpg``.
    """
    taken: set[str] = set()
    names: dict[Path, str] = {}
    for file in files:
        suffix = ".mp4" if is_video(file) else file.suffix if file.suffix.lower() in _JPEG_SUFFIXES else ".png"
        name, number = f"{file.stem}{suffix}", 1
        while name.lower() in taken:  # some file systems ignore case
            number += 1
            name = f"{file.stem}-{number}{suffix}"
        taken.add(name.lower())
        names[file] = name
    return names


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to overwrite an input."""
    read = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in read:
            raise UsageError(f"{output} is an input and would be overwritten", hint="choose another output")
