"""The content of a report, apart from its format: ``report.md`` and ``report.html`` are rendered from the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Document",
    "Figure",
    "Headline",
    "Paragraph",
    "Section",
    "Table",
    "TableRow",
    "Tone",
]

TableRow = tuple["Cell | str", ...]

Tone = Literal["plain", "good", "warning", "bad", "quiet"]
"""The colour of a text. The words state the same: a tone is never the only sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table, or an entry of a legend.

    Attributes:
        text: its content.
        key: the letter of a series, or number of a stage, that figures refer to; empty where there is none.
        colour: of the key, 0 to 7.
        hollow: figures draw the series in outline, because its detections are wrong.
        tone: of the text.
        small: a note under the text; empty where there is none.
    """

    text: str
    key: str = ""
    colour: int = 0
    hollow: bool = False
    tone: Tone = "plain"
    small: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first column names its rows.

    Attributes:
        caption: what it holds.
        columns: headings.
        rows: as many cells each as there are columns.
        text_columns: the first so many columns are text, the others numbers.
        folded: HTML shows it on request.
    """

    kind: ClassVar = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph; one with a tone other than plain stands out."""

    kind: ClassVar = "paragraph"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A command to be copied."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and its numbers.

    Attributes:
        title: what it shows.
        note: how to read it.
        svg: the drawing, trusted HTML of ``frcnn.benchmarks.report.figures``.
        legend: what keys in the drawing stand for.
        table: its numbers; Markdown has this in place of the drawing. None where another table in the section has them.
    """

    kind: ClassVar = "figure"
    title: str
    note: str
    svg: str
    legend: tuple[Cell, ...] = ()
    table: Table | None = None


Block = Paragraph | Code | Table | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of the report; ``name`` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The result in one line.

    Attributes:
        value: a number to be seen first, like ``"1.73x"``; empty where no number may be quoted.
        text: the result.
        notes: what belongs to it.
        tone: good only where something is faster beyond doubt.
    """

    value: str
    text: str
    notes: tuple[str, ...]
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report: what was measured, where and when, the result, and the details."""

    title: str
    subtitle: str
    headline: Headline
    sections: tuple[Section, ...]
