"""The image files that annotations speak of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from frcnn.benchmarks.accuracy.truth import Truth, TruthImage, names_shown
from frcnn.errors import ImageError, UsageError
from frcnn.runtime.images.image import RGBImage

__all__ = ["Skipped", "find_images", "opened"]

Skipped = dict[str, str]
"""Why an image was left out, by its file name in the annotations."""


def find_images(truth: Truth, folder: Path, *, allow_missing: bool = False) -> tuple[dict[Path, TruthImage], Skipped]:
    """Return the annotated images by file, and those that are not there.

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
    for image in truth.images:
        _require_inside(image.file_name, truth)
    files = {folder / image.file_name: image for image in truth.images}
    missing = [image.file_name for file, image in files.items() if not file.is_file()]
    if len(missing) == len(files):
        raise _another_set(truth, folder)
    if missing and not allow_missing:
        raise UsageError(
            f"{len(missing)} of {len(files)} images that {truth.source} lists are not in {folder}: "
            f"{names_shown(missing)}",
            hint="add them, or measure without them and their annotations: --allow-missing",
        )
    skipped = dict.fromkeys(missing, "not in the folder")
    return {file: image for file, image in files.items() if image.file_name not in skipped}, skipped


def _require_inside(name: str, truth: Truth) -> None:
    """Refuse a file name that is absolute, goes up, or is none: annotations may be somebody else's."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or not paths[0].parts or any(path.anchor or ".." in path.parts for path in paths):
        raise UsageError(
            f"{truth.source}: the file name {name!r} is not one inside the folder of images",
            hint="file names are relative to --images; give a folder above all images",
        )


def opened(files: Mapping[Path, TruthImage], skipped: Skipped) -> Iterator[RGBImage]:
    """Decode the images one after the other; those that cannot be used are added to ``skipped``.

    An image of another size than its annotations say is one of them: boxes of something else would be held against it.
    """
    for file, annotated in files.items():
        try:
            image = RGBImage.open(file)
            _check_size(image, annotated)
        except ImageError as error:
            skipped[annotated.file_name] = str(error)
        else:
            yield image


def _check_size(image: RGBImage, annotated: TruthImage) -> None:
    if annotated.size is None or annotated.size == image.size:
        return
    (height, width), (said_height, said_width) = image.size, annotated.size
    turned = image.size == annotated.size[::-1]
    raise ImageError(
        f"{image.name} is {width}x{height} (width x height), its annotations are for {said_width}x{said_height}",
        hint="the file's EXIF orientation turns it; annotate it upright" if turned else "",
    )


def _another_set(truth: Truth, folder: Path) -> UsageError:
    first = truth.images[0].file_name
    there = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = {Path(image.file_name).name for image in truth.images}
    hint = "check that annotations and images are of one set"
    if names & set(there):
        hint = f"file names are relative to --images: for {first} give the folder that has {Path(first).parent} in it"
    found = f"which has {names_shown(there, 3)}" if there else "which is empty"
    return UsageError(
        f"none of the {len(truth.images)} images that {truth.source} lists ({first}, ...) is in {folder}, {found}",
        hint=hint,
    )
