"""A terminal of any width, for what is laid out for it."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from frcnn import console


class Shown(NamedTuple):
    """A table: the arguments of ``show_table``."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    options: dict[str, Any]


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def laid_out(table: Shown, width: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a table's lines on a terminal of a width or, for None, in a file."""
    screen = io.StringIO() if width is None else _Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(width or 80))
    monkeypatch.setenv("TERM", "xterm")
    console.show_table(table.title, table.columns, table.rows, **table.options)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()
