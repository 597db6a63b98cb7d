"""The picture files that annotations speak of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from frcnn.benchmarks.accuracy.truth import Truth, TruthPicture, names_shown
from frcnn.errors import ImageError, UsageError
from frcnn.runtime.images.image import Picture

__all__ = ["Skipped", "find_pictures", "opened"]

Skipped = dict[str, str]
"""Why a picture was left out, by its file name in the annotations."""


def find_pictures(
    truth: Truth, folder: Path, *, allow_missing: bool = False
) -> tuple[dict[Path, TruthPicture], Skipped]:
    """Return the annotated pictures by file, and those that are not there.

    Args:
        truth: the annotated set.
        folder: what the annotations' file names are relative to.
        allow_missing: go on without some of them.

    Raises:
        UsageError: the folder is none, or has not a single one of them; a file name leads out of it; or some are
            missing and must not be.
    """
    if not folder.is_dir():
        raise UsageError(f"--images: {folder} is no folder", hint="give the folder that the file names are relative to")
    for picture in truth.pictures:
        _require_inside(picture.file_name, truth)
    files = {folder / picture.file_name: picture for picture in truth.pictures}
    missing = [picture.file_name for file, picture in files.items() if not file.is_file()]
    if len(missing) == len(files):
        raise _another_set(truth, folder)
    if missing and not allow_missing:
        raise UsageError(
            f"{len(missing)} of {len(files)} pictures that {truth.source} lists are not in {folder}: "
            f"{names_shown(missing)}",
            hint="add them, or measure without them and their annotations: --allow-missing",
        )
    skipped = dict.fromkeys(missing, "not in the folder")
    return {file: picture for file, picture in files.items() if picture.file_name not in skipped}, skipped


def _require_inside(name: str, truth: Truth) -> None:
    """Refuse a file name that is absolute, goes up, or is none: annotations may be somebody else's."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or not paths[0].parts or any(path.anchor or ".." in path.parts for path in paths):
        raise UsageError(
            f"{truth.source}: the file name {name!r} is not one inside the folder of pictures",
            hint="file names are relative to --images; give a folder above all pictures",
        )


def opened(files: Mapping[Path, TruthPicture], skipped: Skipped) -> Iterator[Picture]:
    """Decode the pictures one after the other; those that cannot be used are added to ``skipped``.

    A picture of another size than its annotations say is one of them: boxes of something else would be held against it.
    """
    for file, annotated in files.items():
        try:
            picture = Picture.open(file)
            _check_size(picture, annotated)
        except ImageError as error:
            skipped[annotated.file_name] = str(error)
        else:
            yield picture


def _check_size(picture: Picture, annotated: TruthPicture) -> None:
    if annotated.size is None or annotated.size == picture.size:
        return
    (height, width), (said_height, said_width) = picture.size, annotated.size
    turned = picture.size == annotated.size[::-1]
    raise ImageError(
        f"{picture.name} is {width}x{height} (width x height), its annotations are for {said_width}x{said_height}",
        hint="the file's EXIF orientation turns it; annotate it upright" if turned else "",
    )


def _another_set(truth: Truth, folder: Path) -> UsageError:
    first = truth.pictures[0].file_name
    there = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = {Path(picture.file_name).name for picture in truth.pictures}
    hint = "check that annotations and pictures are of one set"
    if names & set(there):
        hint = f"file names are relative to --images: for {first} give the folder that has {Path(first).parent} in it"
    found = f"which has {names_shown(there, 3)}" if there else "which is empty"
    return UsageError(
        f"none of the {len(truth.pictures)} pictures that {truth.source} lists ({first}, ...) is in {folder}, {found}",
        hint=hint,
    )
