"""Fonts for names in any script: Pillow's own for what it covers, else those of this system, looked for when needed.

A font covers a letter that it draws otherwise than one that does not exist. Pillow shapes letters that change beside
others, as in Arabic and Devanagari, by libraqm, which works where FriBiDi is on the system.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from unicodedata import bidirectional, category, normalize
from unicodedata import name as unicode_name

from PIL import ImageFont, features

from frcnn.errors import UsageError
from frcnn.log import warn_once

Run = tuple[str, str | None]
"""A text in one font: its file, or None, which is Pillow's own."""

_FOLDERS: Final = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/System/Library/Fonts"),
    *("/Library/Fonts", "~/Library/Fonts", "${WINDIR}/Fonts", "${LOCALAPPDATA}/Microsoft/Windows/Fonts"),
)
_STYLES: Final = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "medium", "mono", "serif", "math")


def label_runs(name: str, score: str, number: int, font: str | None) -> tuple[Run, ...]:
    """Return a class's name and a score as runs from left to right; the caller's font comes before all others.

    Symbols and accents that no font has are left out; of a name with letters that none has the class's number is drawn.
    """
    if font is None and name.isascii():
        return ((f"{name} {score}", None),)
    return _name_runs(name, number, font) + _runs(f" {score}", font)[0]


@lru_cache(maxsize=128)
def font_of(file: str | None, size_px: int) -> ImageFont.FreeTypeFont:
    """Return the font of a file, or Pillow's own, in a size."""
    font = ImageFont.load_default(size_px) if file is None else ImageFont.truetype(file, size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType and its font
    return font


def checked_font(font: str | os.PathLike[str]) -> str:
    """Return the path of a font's file; raise UsageError where it cannot be used."""
    file = os.fspath(font)
    try:
        _probe(file)
    except OSError as error:
        raise UsageError(f"font: expected a scalable TrueType or OpenType font, got {file}: {error}") from error
    return file


@lru_cache(maxsize=4096)
def _name_runs(name: str, number: int, font: str | None) -> tuple[Run, ...]:
    name = normalize("NFC", name)
    texts = [name, "".join(letter for letter in name if category(letter)[0] != "S")]
    plain = "".join(letter for letter in normalize("NFKD", name) if letter.isascii() or category(letter)[0] not in "MS")
    texts += [plain] if plain.isascii() else []
    letter = _runs(name, font)[1]
    if letter and category(letter)[0] != "S":  # nobody misses a symbol
        script = unicode_name(letter, "UNNAMED").split()[0].title().replace("Cjk", "CJK")
        why, cure = "no font of this system has", "fonts-noto-core, for CJK fonts-noto-cjk; or choose a font: --font"
        if _lacks_fribidi(letter):
            why, cure = "FriBiDi is missing for", "libfribidi0"
        warn_once(f"{why} {script} letters: names are drawn without, or as class numbers (Debian: apt install {cure})")
    return next(runs for text in (*texts, f"#{number}") if (runs := _runs(text.strip(), font)[0]))


def _lacks_fribidi(letter: str) -> bool:
    return bidirectional(letter) in ("R", "AL") and not features.check("raqm")


@lru_cache(maxsize=1024)
def _runs(text: str, font: str | None) -> tuple[tuple[Run, ...], str]:
    """Split a text into runs, or find the first letter that cannot be drawn."""
    runs: list[Run] = []
    is_leftwards = any(bidirectional(letter) in ("R", "AL") for letter in text)
    while text:
        file, count = _longest(text, font)
        if not count:
            return (), text[0]
        runs.append((text[:count], file))
        text = text[count:]
    return tuple(reversed(runs) if is_leftwards else runs), ""


def _longest(text: str, font: str | None) -> tuple[str | None, int]:
    """Return the font that covers most of a text from its beginning, and how many letters; the caller's goes first."""
    end = next((i for i in range(1, len(text)) if font and text[i].strip() and _covers(font, text[i])), len(text))
    best: tuple[str | None, int] = (None, 0)
    for file in (*([] if font is None else [font]), None, *_fonts()):
        limit = len(text) if file == font else end
        count = next((i for i in range(limit) if not _covers(file, text[i])), limit)
        while 0 < count < len(text) and category(text[count])[0] == "M":  # a mark stays with its letter
            count -= 1
        if count > best[1]:
            best = file, count
        if count == limit or (file is not None and file == font and text[:count].strip()):
            break
    return best


def _covers(file: str | None, letter: str) -> bool:
    if category(letter)[0] in "ZC":  # spaces, joiners
        return True
    try:
        font, missing = _probe(file)
    except OSError:
        return False
    drawn = bytes(font.getmask(letter))
    return any(drawn) and drawn != missing and not _lacks_fribidi(letter)


@lru_cache(maxsize=400)
def _probe(file: str | None) -> tuple[ImageFont.FreeTypeFont, bytes]:
    """Return a small font that shapes nothing, and what it draws for a letter that it has not."""
    font = font_of(None, 16) if file is None else ImageFont.truetype(file, 16, layout_engine=ImageFont.Layout.BASIC)
    return font, bytes(font.getmask("\uffff"))


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    """Return the files of this system's fonts and of matplotlib's, upright ones without serifs first."""
    spec = find_spec("matplotlib")
    its = () if spec is None or spec.origin is None else (f"{Path(spec.origin).parent}/mpl-data/fonts/ttf",)
    found = {
        Path(folder, name)
        for root in (*_FOLDERS, *its)
        for folder, _, names in os.walk(os.path.expandvars(Path(root).expanduser()))
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc")) and not name.startswith("LastResort")  # macOS: boxes for all
    }
    stems = {str(file): file.stem.lower() for file in found}
    return tuple(sorted(stems, key=lambda f: (sum(s in stems[f] for s in _STYLES), "sans" not in stems[f], len(f), f)))
