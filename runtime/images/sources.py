"""Input files of paths and folders, and names of their annotated copies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.images.video import VIDEO_SUFFIXES

__all__ = ["IMAGE_SUFFIXES", "files_in_folder", "files_of", "is_video", "output_names", "refuse_overwriting"]

IMAGE_SUFFIXES: Final = frozenset(
    {".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_JPEG_SUFFIXES: Final = frozenset({".jpe", ".jpeg", ".jpg"})


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix; all other files are images."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def files_in_folder(folder: Path) -> list[Path]:
    """Return the image and video files of a folder, sorted by name, without sub-folders and hidden files."""
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files = [name for name in names if name.suffix.lower() in known and name.is_file() and name.name[0] != "."]
    if not files:
        raise ImageError(
            f"{folder}: expected images or videos, the folder has none",
            hint=f"files ending in {', '.join(sorted(known))} are read; folders inside it are not searched",
        )
    return files


def files_of(arguments: Iterable[str]) -> tuple[list[Path], dict[str, ImageError]]:
    """Return the files of paths and folders, each once, in order; and the errors of the unusable arguments."""
    files: dict[Path, Path] = {}
    errors: dict[str, ImageError] = {}
    for argument in arguments:
        path = Path(argument)
        try:
            if not path.exists():
                raise ImageError(f"{path}: no such file or folder")
            found = files_in_folder(path) if path.is_dir() else [path]
        except ImageError as error:
            errors[argument] = error
            continue
        for file in found:
            files.setdefault(file.resolve(), file)
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
