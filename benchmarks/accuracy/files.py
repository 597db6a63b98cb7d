"""Find the files of annotated images, whatever system and folder their names were written for.

A name as it stands counts first. Otherwise its last parts do, where they are those of one file only: a name from
another system has backslashes or leads out of the folder, and case and accents may be written in two ways. What is
looked at is in the folder, or linked from there.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from frcnn.benchmarks.accuracy.annotations import AnnotatedImage, GroundTruth
from frcnn.benchmarks.accuracy.faults import names_shown
from frcnn.benchmarks.accuracy.images import Skipped
from frcnn.errors import UsageError
from frcnn.log import warn_once

__all__ = ["find_images", "name_key"]

_MISSING: Final = "not in the folder"
_FEW: Final = 3


def name_key(name: str) -> str:
    """Return what names have in common that differ only in case, or in how Unicode writes a letter."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_images(
    ground_truth: GroundTruth, folder: Path, *, allow_missing: bool = False
) -> tuple[dict[Path, AnnotatedImage], Skipped]:
    """Return the annotated images by file, and why others are not found; warn of files that have another name.

    Raises:
        UsageError: the folder does not exist, or has none of them; or some are missing and must not be.
    """
    if not folder.is_dir():
        raise UsageError(f"--images: {folder} is no folder", hint="give the folder that the file names are relative to")
    names = [image.file_name for image in ground_truth.images]
    files = {name: [folder / name] for name in names if _is_inside(name) and _is_file(folder / name)}
    taken = {file for [file] in files.values()}
    others = _by_last_parts([name for name in names if name not in files], folder)
    files |= {name: [] if taken.issuperset(fitting) else fitting for name, fitting in others.items()}
    claims = Counter(fitting[0] for fitting in files.values() if len(fitting) == 1)
    found: dict[Path, AnnotatedImage] = {}
    missing: Skipped = {}
    for image in ground_truth.images:
        fitting = files[image.file_name]
        if len(fitting) == 1 and claims[fitting[0]] == 1:
            found[fitting[0]] = image
        else:
            shown = names_shown([str(file.relative_to(folder)) for file in fitting], _FEW)
            more = ", as may another name" if len(fitting) == 1 else ""
            missing[image.file_name] = f"may be {shown}{more}" if fitting else _MISSING
    if missing and not (allow_missing and found):
        raise _not_found(ground_truth, folder, missing)
    renamed = [f"{image.file_name} is {file.relative_to(folder)}" for file, image in found.items() if file not in taken]
    if renamed:
        what = f"{len(renamed)} of {len(names)} images are found in {folder} by the last parts of their names"
        warn_once(f"{what}: {names_shown(renamed, _FEW)}")
    return found, missing


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.anchor and ".." not in path.parts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the system has them
        return False


def _parts(name: str) -> list[str]:
    """Return the folders and the file of a name from any system, without what leads out of the folder."""
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]


def _by_last_parts(names: Sequence[str], folder: Path) -> dict[str, list[Path]]:
    """Return the files under a folder that each name may mean: one has all parts of the other, at its end."""
    fitting: dict[str, list[Path]] = {}
    for name in names:
        parts = _parts(name)
        ends = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
        fitting[name] = [file for file in ends if _is_file(file)][:1]
    unfound = {name: _parts(name) for name, files in fitting.items() if not files}
    by_name: dict[str, list[Path]] = {name_key(parts[-1]): [] for parts in unfound.values() if parts}
    for file in _files_under(folder) if by_name else ():
        if (key := name_key(file.name)) in by_name:
            by_name[key].append(file)
    for name, parts in unfound.items():
        ranked: dict[tuple[int, int], list[Path]] = {}
        for file in by_name[name_key(parts[-1])] if parts else ():
            pairs = list(zip(reversed(file.relative_to(folder).parts), reversed(parts), strict=False))
            if all(name_key(own) == name_key(wanted) for own, wanted in pairs):
                ranked.setdefault((len(pairs), sum(own == wanted for own, wanted in pairs)), []).append(file)
        fitting[name] = ranked[max(ranked)] if ranked else []
    return fitting


def _files_under(folder: Path) -> Iterator[Path]:
    """Yield all files; links to folders are followed, each folder once."""
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(root, name) for name in names)


def _not_found(ground_truth: GroundTruth, folder: Path, missing: Skipped) -> UsageError:
    """Say what is not there, and as what it may be there."""
    total, source = len(ground_truth.images), ground_truth.source
    name, reason = next((item for item in missing.items() if item[1] != _MISSING), next(iter(missing.items())))
    stem = name_key(Path((_parts(name) or [""])[-1]).stem)
    alike = [str(file.relative_to(folder)) for file in _files_under(folder) if name_key(file.stem) == stem]
    hint = ""
    if reason != _MISSING:
        hint = f"{name} {reason}: give the folder that the file names are relative to"
    elif alike:
        hint = f"{name} may be {names_shown(alike, _FEW)}, whose folder or suffix differs: correct the file names"
    elif not _is_inside(name) or "\\" in name:
        hint = f"{name} is a path of another place or system, and its last part is not under --images"
    if len(missing) == total:
        present = sorted(path.name for path in folder.iterdir())
        content = f"which has {names_shown(present, _FEW)}" if present else "which is empty"
        return UsageError(
            f"none of the {total} images that {source} lists ({name}, ...) is in {folder}, {content}",
            hint=hint or "check that annotations and images are of one set",
        )
    return UsageError(
        f"{len(missing)} of {total} images that {source} lists are not in {folder}: {names_shown(list(missing))}",
        hint=f"{hint or 'add them'}, or measure without them and their annotations: --allow-missing",
    )
