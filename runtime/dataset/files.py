"""Find the files of annotated images, and the images of files, whatever system and folder names were written for.

A name as it stands counts first. Otherwise its last parts do, where they are those of one file only: a name from
another system has backslashes or leads out of the folder, and case and accents may be written in two ways. What is
looked at is in the folder, or linked from there.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from frcnn.errors import UsageError
from frcnn.log import warn_once
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth
from frcnn.runtime.dataset.faults import names_shown
from frcnn.runtime.images.sources import Source

Skipped = dict[str, str]
"""Why an image was left out, by its file name in the annotations."""
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MISSING: Final = "not in the folder"
_REASONS: Final = (
    "may be {}, in another folder or of another kind",
    "may be {}, as may another",
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
    """Return the annotated images by file, and why others are not found; warn of files that have another name."""
    if not folder.is_dir():
        raise UsageError(f"--images: {folder} is no folder", hint="give the folder that the file names are relative to")
    names = [image.file_name for image in ground_truth.images]
    exact = {name: [Path(name)] for name in names if _is_inside(name) and _is_file(folder / name)}
    taken = {file for [file] in exact.values()}
    fitting, alike = _by_last_parts([name for name in names if name not in exact], folder)
    fitting = exact | {name: files for name, files in fitting.items() if not taken.issuperset(files)}
    pairs, missing = _unique(names, fitting, alike)
    found = {folder / pairs[image.file_name]: image for image in ground_truth.images if image.file_name in pairs}
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


def match_sources(
    ground_truth: GroundTruth, sources: Sequence[Source], *, allow_missing: bool = False
) -> tuple[dict[str, AnnotatedImage], list[str]]:
    """Return the annotated image of each source by its name, and the names that are not listed: all but image files.

    Where no whole path fits, the place in the folder that was given does; that is warned of.
    """
    by_name = {image.file_name: image for image in ground_truth.images}
    offered = {name: _parts(name) for name in by_name}
    files = {source.name: source for source in sources if source.kind == "image"}
    fitting, _ = _best_fits({name: _parts(str(Path(name).absolute())) for name in files}, offered)
    taken = {name for names in fitting.values() for name in names}
    places = {name: source.place.parts for name, source in files.items() if name not in fitting}
    inside, alike = _best_fits(places, {name: parts for name, parts in offered.items() if name not in taken})
    fitting |= inside
    pairs, missing = _unique([source.name for source in sources], fitting, alike)
    if missing and not (allow_missing and pairs):
        reasons = (f"{name} {reason}" for name, reason in missing.items() if reason != _MISSING)
        hint = next(reasons, "check that annotations and images are of one set")
        shown = names_shown(list(missing))
        raise UsageError(
            f"{len(missing)} of {len(sources)} inputs are not listed in {ground_truth.source}: {shown}",
            hint=f"{hint}, or leave them out: --allow-missing" if pairs else hint,
        )
    if renamed := [f"{name} is {pairs[name]}" for name in inside if name in pairs]:
        what = f"{len(renamed)} of {len(sources)} inputs are found in {ground_truth.source} by the last parts of names"
        warn_once(f"{what}: {names_shown(renamed, _FEW)}")
    return {name: by_name[image] for name, image in pairs.items()}, list(missing)


def _unique(
    wanted: Iterable[K], fitting: Mapping[K, Sequence[V]], alike: Mapping[K, Sequence[V]]
) -> tuple[dict[K, V], Skipped]:
    """Return what fits one alone, and why the others have no partner."""
    claims = Counter(values[0] for values in fitting.values() if len(values) == 1)
    pairs: dict[K, V] = {}
    missing: Skipped = {}
    for key in wanted:
        values = fitting.get(key, ())
        if len(values) == 1 and claims[values[0]] == 1:
            pairs[key] = values[0]
            continue
        shown = names_shown([str(value) for value in values or alike.get(key, ())], _FEW)
        reason = _REASONS[min(len(values), len(_REASONS) - 1)]
        missing[str(key)] = reason.format(shown) if shown else _MISSING
    return pairs, missing


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a name of any system, without what leads out of the folder."""
    return tuple(part for part in re.split(r"[/\\]", name) if part not in ("", ".", ".."))


def _by_last_parts(names: Sequence[str], folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Return the files in a folder that each name may mean, relative to it; and those of its stem."""
    fitting: dict[str, list[Path]] = {}
    unfound: dict[str, tuple[str, ...]] = {}
    for name in names:
        parts = _parts(name)
        ends = (Path(*parts[start:]) for start in range(len(parts)))
        if file := next((end for end in ends if _is_file(folder / end)), None):
            fitting[name] = [file]
        elif parts:
            unfound[name] = parts
    offered = {file: file.parts for file in _files_under(folder)} if unfound else {}
    found, alike = _best_fits(unfound, offered)
    return fitting | found, alike


def _best_fits(
    wanted: Mapping[K, Sequence[str]], offered: Mapping[V, Sequence[str]]
) -> tuple[dict[K, list[V]], dict[K, list[V]]]:
    """Return what is offered for each path wanted, where one has all parts of the other at its end; and by its stem.

    Of several those with most parts in common, as written.
    """
    by_stem: dict[str, list[V]] = {_stem(parts): [] for parts in wanted.values()}
    for value, parts in offered.items():
        if (stem := _stem(parts)) in by_stem:
            by_stem[stem].append(value)
    alike = {key: by_stem[_stem(parts)] for key, parts in wanted.items()}
    fitting: dict[K, list[V]] = {}
    for key, parts in wanted.items():
        ranked: dict[tuple[int, int], list[V]] = {}
        for value in alike[key]:
            pairs = list(zip(reversed(offered[value]), reversed(parts), strict=False))
            if all(name_key(own) == name_key(other) for own, other in pairs):
                ranked.setdefault((len(pairs), sum(own == other for own, other in pairs)), []).append(value)
        if ranked:
            fitting[key] = ranked[max(ranked)]
    return fitting, alike


def _stem(parts: Sequence[str]) -> str:
    return name_key(Path(parts[-1]).stem) if parts else ""


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
