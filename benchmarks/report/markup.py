"""HTML and SVG from plain calls: what comes from data is escaped, without being asked to."""

from __future__ import annotations

import html
import re
from typing import Final

__all__ = ["Markup", "element", "join", "plain"]

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters, marks that turn the direction of text about, and halves of characters that UTF-8 cannot hold."""

_VOID: Final = frozenset({"br", "meta"})


class Markup(str):
    """Text that is HTML already: made by ``element`` and ``join``, never from data."""

    __slots__ = ()


def plain(text: str) -> str:
    """Return text on one line; what could hide or turn about other text is shown as U+FFFD.

    Names of files and reasons of errors come from outside: a line break in one would end a table's row, and a mark of
    direction would make "wrong" read as something else.
    """
    return _UNSEEN.sub("\ufffd", " ".join(text.split()))


def element(tag: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        tag: its name.
        children: inside it, one after the other; what is no ``Markup`` is escaped.
        attributes: ``_`` at the end of a name is dropped, another one stands for ``-``. None and False leave the
            attribute out, True gives it without a value; numbers are rounded to hundredths.
    """
    start = "".join([f"<{tag}", *(_attribute(name, value) for name, value in attributes.items()), ">"])
    if tag in _VOID:
        return Markup(start)
    return Markup(f"{start}{join(*children)}</{tag}>")


def join(*parts: str) -> Markup:
    """Return the parts one after the other; what is no ``Markup`` is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(_inline(part)) for part in parts))


def _inline(text: str) -> str:
    """As ``plain``, but a blank at the start or end stays: it divides a text from the element beside it."""
    before, after = text[:1].isspace(), text[-1:].isspace()
    middle = plain(text)
    return f"{' ' if before else ''}{middle}{' ' if after and middle else ''}"


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {name}="{html.escape(plain(text))}"'
