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
from functools import lru_cache
from pathlib import Path
from typing import Final

from frcnn.benchmarks.accuracy.annotations import AnnotatedImage, GroundTruth
from frcnn.benchmarks.accuracy.faults import names_shown
from frcnn.benchmarks.accuracy.images import Skipped
from frcnn.errors import UsageError
from frcnn.log import warn_once

_MISSING: Final = "not in the folder"
_REASONS: Final = (
    "may be {}, in another folder or of another kind",
    "may be {}, as may another name",
    "may be any of {}",
)
"""By the number of files that fit."""
_FEW: Final = 3


@lru_cache(1 << 16)
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
    exact = {name: [Path(name)] for name in names if _is_inside(name) and _is_file(folder / name)}
    taken = {file for [file] in exact.values()}
    fitting, alike = _by_last_parts([name for name in names if name not in exact], folder)
    fitting = exact | {name: files for name, files in fitting.items() if not taken.issuperset(files)}
    claims = Counter(files[0] for files in fitting.values() if len(files) == 1)
    found: dict[Path, AnnotatedImage] = {}
    missing: Skipped = {}
    for image in ground_truth.images:
        files = fitting.get(image.file_name, [])
        if len(files) == 1 and claims[files[0]] == 1:
            found[folder / files[0]] = image
            continue
        shown = names_shown(list(map(str, files or alike.get(image.file_name, []))), _FEW)
        reason = _REASONS[min(len(files), len(_REASONS) - 1)]
        missing[image.file_name] = reason.format(shown) if shown else _MISSING
    if missing and not (allow_missing and found):
        raise _not_found(ground_truth, folder, missing)
    renamed = [f"{name} is {fitting[name][0]}" for name in names if name not in exact and name not in missing]
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


def _by_last_parts(names: Sequence[str], folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Return the files that a name may mean, where one has all parts of the other at its end; and those of its stem.

    All are relative to the folder.
    """
    fitting: dict[str, list[Path]] = {}
    unfound: dict[str, list[str]] = {}
    for name in names:
        # of any system, without what leads out of the folder
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
        ends = (Path(*parts[start:]) for start in range(len(parts)))
        if file := next((end for end in ends if _is_file(folder / end)), None):
            fitting[name] = [file]
        elif parts:
            unfound[name] = parts
    stems = {name: name_key(Path(parts[-1]).stem) for name, parts in unfound.items()}
    by_stem: dict[str, list[Path]] = {stem: [] for stem in stems.values()}
    for file in _files_under(folder) if by_stem else ():
        if (stem := name_key(file.stem)) in by_stem:
            by_stem[stem].append(file)
    for name, parts in unfound.items():
        ranked: dict[tuple[int, int], list[Path]] = {}
        for file in by_stem[stems[name]]:
            pairs = list(zip(reversed(file.parts), reversed(parts), strict=False))
            if all(name_key(own) == name_key(wanted) for own, wanted in pairs):
                ranked.setdefault((len(pairs), sum(own == wanted for own, wanted in pairs)), []).append(file)
        if ranked:
            fitting[name] = ranked[max(ranked)]
    return fitting, {name: by_stem[stem] for name, stem in stems.items()}


def _files_under(folder: Path) -> Iterator[Path]:
    """Yield all files, relative to the folder; links to folders are followed, each folder once."""
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(real)
        inside = Path(root).relative_to(folder)
        yield from (inside / name for name in names)


def _not_found(ground_truth: GroundTruth, folder: Path, missing: Skipped) -> UsageError:
    """Say what is not there, and as what it may be there."""
    listed = f"{len(ground_truth.images)} images that {ground_truth.source} lists"
    name, reason = next((item for item in missing.items() if item[1] != _MISSING), next(iter(missing.items())))
    hint = ""
    if reason != _MISSING:
        hint = f"{name} {reason}: give the folder that file names are relative to, or correct them"
    elif not _is_inside(name) or "\\" in name:
        hint = f"{name} is a path of another place or system, and its last part is not under --images"
    if len(missing) == len(ground_truth.images):
        present = names_shown(sorted(path.name for path in folder.iterdir()), _FEW)
        return UsageError(
            f"none of the {listed} ({name}, ...) is in {folder}, which {f'has {present}' if present else 'is empty'}",
            hint=hint or "check that annotations and images are of one set",
        )
    return UsageError(
        f"{len(missing)} of {listed} are not in {folder}: {names_shown(list(missing))}",
        hint=f"{hint or 'add them'}, or measure without them and their annotations: --allow-missing",
    )
