"""Fonts for names in any script: Pillow's own for what it covers, else those of this system, looked for when needed.

A font covers a letter that it draws otherwise than one that does not exist. Pillow shapes letters that change beside
others, as in Arabic and Devanagari, by libraqm, which works where FriBiDi is on the system.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple
from unicodedata import bidirectional, category, normalize
from unicodedata import name as unicode_name

from PIL import ImageFont, features

from frcnn.errors import UsageError
from frcnn.log import warn_once

_FOLDERS: Final = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("${WINDIR}/Fonts", "${LOCALAPPDATA}/Microsoft/Windows/Fonts"),
)
_SUFFIXES: Final = (".ttf", ".otf", ".ttc")
_STYLES: Final = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "medium", "mono", "serif", "math")
_PLACEHOLDERS: Final = "LastResort"
"""A font of macOS that has a box for every letter."""
_RIGHT_TO_LEFT: Final = ("R", "AL")
_PROBE_PX: Final = 16
_NO_LETTER: Final = "\uffff"


class Run(NamedTuple):
    """A text in one font: a file, or None, which is Pillow's own."""

    text: str
    file: str | None


def label_runs(name: str, score: str, number: int, font: str | None) -> tuple[Run, ...]:
    """Return a class's name and a score as runs, from left to right.

    Args:
        name: of the class. Symbols and accents that no font has are left out; letters that none has are warned of, and
            the class's number stands for the name.
        score: as it is drawn.
        number: of the class.
        font: the file of a font that comes before all others.
    """
    if font is None and name.isascii():
        return (Run(f"{name} {score}", None),)
    return _name_runs(name, number, font) + _runs(f" {score}", font)[0]


@lru_cache(maxsize=128)
def font_of(file: str | None, size_px: int) -> ImageFont.FreeTypeFont:
    """Return the font of a file, or Pillow's own, in a size."""
    font = ImageFont.load_default(size_px) if file is None else ImageFont.truetype(file, size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType and its font
    return font


def checked_font(font: str | os.PathLike[str]) -> str:
    """Return the path of a font's file; raise UsageError where it cannot be used."""
    try:
        _probe(os.fspath(font))
    except OSError as error:
        raise UsageError(
            f"font: expected a TrueType or OpenType font of any size, got {os.fspath(font)}: {error}",
            hint="such a file ends in .ttf, .otf or .ttc",
        ) from error
    return os.fspath(font)


@lru_cache(maxsize=4096)
def _name_runs(name: str, number: int, font: str | None) -> tuple[Run, ...]:
    name = normalize("NFC", name)
    texts = [name, "".join(letter for letter in name if category(letter)[0] != "S")]
    plain = "".join(letter for letter in normalize("NFKD", name) if letter.isascii() or category(letter)[0] not in "MS")
    texts += [plain] if plain.isascii() else []
    _warn_of(_runs(name, font)[1])
    return next(runs for text in (*texts, f"#{number}") if (runs := _runs(text.strip(), font)[0]))


def _warn_of(letter: str) -> None:
    """Warn of a letter that is not drawn, once for all of its script; nobody misses a symbol."""
    if not letter or category(letter)[0] == "S":
        return
    script = unicode_name(letter, "UNNAMED").split()[0].title().replace("Cjk", "CJK")
    why = f"no font of this system has {script} letters"
    cure = "install fonts-noto-core, for CJK fonts-noto-cjk, as Debian calls them, or name a font's file: --font, font="
    if bidirectional(letter) in _RIGHT_TO_LEFT and not features.check("raqm"):
        why, cure = f"{script} letters need FriBiDi", "install libfribidi0, as Debian calls it"
    warn_once(f"{why}: class names are drawn without them, or as numbers ({cure})")


@lru_cache(maxsize=1024)
def _runs(text: str, font: str | None) -> tuple[tuple[Run, ...], str]:
    """Split a text into runs, or find the first letter that cannot be drawn."""
    leftwards = [letter for letter in text if bidirectional(letter) in _RIGHT_TO_LEFT]
    if leftwards and not features.check("raqm"):
        return (), leftwards[0]
    runs: list[Run] = []
    while text:
        file, count = _longest(text, font)
        if not count:
            return (), text[0]
        runs.append(Run(text[:count], file))
        text = text[count:]
    return tuple(reversed(runs) if leftwards else runs), ""


def _longest(text: str, font: str | None) -> tuple[str | None, int]:
    """Return the font that covers most of a text from its beginning, and how many letters; the caller's goes first."""
    if font is not None:
        if text[: (count := _prefix(text, font))].strip():
            return font, count
        text = text[: next((i for i in range(1, len(text)) if text[i].strip() and _covers(font, text[i])), None)]
    best: tuple[str | None, int] = (None, 0)
    for file in (None, *_fonts()):
        if (count := _prefix(text, file)) > best[1]:
            best = file, count
        if count == len(text):
            break
    return best


def _prefix(text: str, file: str | None) -> int:
    """Return how many letters a font covers from the beginning; marks stay with their letter."""
    count = next((index for index, letter in enumerate(text) if not _covers(file, letter)), len(text))
    while 0 < count < len(text) and category(text[count])[0] == "M":
        count -= 1
    return count


def _covers(file: str | None, letter: str) -> bool:
    if category(letter)[0] in "ZC":  # spaces, joiners
        return True
    try:
        font, missing = _probe(file)
    except OSError:
        return False
    drawn = bytes(font.getmask(letter))
    return any(drawn) and drawn != missing


@lru_cache(maxsize=400)
def _probe(file: str | None) -> tuple[ImageFont.FreeTypeFont, bytes]:
    """Return a small font that shapes nothing, and what it draws for a letter that it has not."""
    basic = ImageFont.Layout.BASIC
    font = font_of(None, _PROBE_PX) if file is None else ImageFont.truetype(file, _PROBE_PX, layout_engine=basic)
    return font, bytes(font.getmask(_NO_LETTER))


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    """Return the files of this system's fonts, upright ones without serifs first, and matplotlib's where it is."""
    spec = find_spec("matplotlib")
    ours = [] if spec is None else [f"{folder}/mpl-data/fonts/ttf" for folder in spec.submodule_search_locations or ()]
    files = {
        Path(folder, name)
        for root in (*_FOLDERS, *ours)
        for folder, _, names in os.walk(os.path.expandvars(Path(root).expanduser()))
        for name in names
        if name.lower().endswith(_SUFFIXES) and not name.startswith(_PLACEHOLDERS)
    }
    return tuple(map(str, sorted(files, key=_rank)))


def _rank(file: Path) -> tuple[int, bool, int, str]:
    stem = file.stem.lower()
    return sum(style in stem for style in _STYLES), "sans" not in stem, len(stem), str(file)
