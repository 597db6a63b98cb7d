"""Options that several verbs have, and how their values are read.

A value out of range is an error of one line that names the option, before any work.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frcnn.errors import UsageError, did_you_mean
from frcnn.spec import Size

Group = argparse._ActionsContainer
"""A parser, or a group of its options."""


@dataclass(frozen=True, slots=True)
class KnownName:
    """Takes one of the known names, or something of the user's own, which has a colon; the type of an option."""

    what: str
    known: tuple[str, ...]
    more: str

    def __call__(self, text: str) -> str:
        """Return the text; raise UsageError for an unknown name."""
        if text in self.known or ":" in text:
            return text
        raise self.error(text)

    def error(self, text: str) -> UsageError:
        """Return the error for an unknown name."""
        hint = did_you_mean(text, self.known, f"known: {', '.join(self.known)}.")
        return UsageError(f"{self.what} {text!r}", hint=f"{hint} {self.more}")


def add_number(group: Group, *flags: str, minimum: float, maximum: float = math.inf, **more: Any) -> None:
    """Add an option, named by the first of ``flags`` in messages, that takes a number, whole where ``minimum`` is."""
    is_whole = isinstance(minimum, int)
    bound = "" if maximum == math.inf else f" to {maximum:g}"
    expected = f"{minimum}{bound or ' or more'}" if is_whole else f"a number from {minimum:g}{bound}"

    def read(text: str) -> float:
        try:
            value = int(text) if is_whole else float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or math.isinf(value):
            raise UsageError(f"{flags[0]}: expected {expected}, got {text}")
        return value

    group.add_argument(*flags, type=read, **more)


def add_images(group: Group, *, required: bool = False, more: str = "") -> None:
    """Add ``--images``; ``more`` is added to its help."""
    text = f"images and folders of images{more}"
    group.add_argument("--images", metavar="PATH", type=Path, nargs="+", required=required, help=text)


def add_map(group: Group) -> None:
    """Add ``--map``."""
    text = "pair a class of the model with a category, by names or numbers: airplane=aeroplane; repeat for more"
    group.add_argument("--map", metavar="MODEL=ANNOTATION", action="append", default=[], help=text)


def add_annotation_options(group: Group) -> None:
    """Add what settles how annotations are read: ``--map``, ``--allow-unmapped``, ``--skip-invalid``, ``--exif``."""
    add_map(group)
    text = "leave out categories that are no class of the model"
    group.add_argument("--allow-unmapped", action="store_true", help=text)
    group.add_argument("--skip-invalid", action="store_true", help="leave out annotations that are invalid")
    text = "what boxes are in where EXIF turns an image: upright, or its pixels as stored (default: what they show)"
    group.add_argument("--exif", choices=("upright", "stored"), help=text)


def refuse_annotation_options(arguments: argparse.Namespace) -> None:
    """Refuse them where there are no annotations."""
    for name in ("map", "allow_unmapped", "skip_invalid", "exif"):
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} goes with --annotations only", hint="give annotations, or leave it out")


def add_batch_size(group: Group) -> None:
    """Add ``--batch-size``."""
    text = "images at a time (default: what frcnn tune chose, else 1)"
    add_number(group, "--batch-size", minimum=1, metavar="N", help=text)


def add_json(group: Group) -> None:
    """Add ``--json``, for :func:`frcnn.console.write_json`."""
    group.add_argument("--json", metavar="FILE", help="write everything that was measured; - for standard output")


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Parse ``800x1344,1344x800``: (height, width) pairs."""
    sizes: list[Size] = []
    for item in text.split(","):
        size = parse_size(item, hint="for instance --size 800x1344,1344x800")
        if size in sizes:
            raise UsageError(f"--size: {size[0]}x{size[1]} is given twice", hint="keep one of the two")
        sizes.append(size)
    return tuple(sizes)


def parse_size(text: str, *, hint: str) -> Size:
    """Parse ``800x1344``: (height, width)."""
    match = re.fullmatch(r"\s*([0-9]{1,6})[xX×]([0-9]{1,6})\s*", text)  # noqa: RUF001  # people paste it
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if 0 in size:
        raise UsageError(f"--size: expected HEIGHTxWIDTH in pixels, got {text!r}", hint=hint)
    return size
