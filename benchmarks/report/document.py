"""What a report says, apart from how it is written: ``report.md`` and ``report.html`` come from the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frcnn.benchmarks.report.markup import Markup

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
"""How a piece of text is shown. The words say the same: a tone is never the only sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        key: the letter of a row, or number of a stage, that charts refer to; empty where there is none.
        tone: of the text.
        small: a remark under the text; empty where there is none.
    """

    text: str
    key: str = ""
    tone: Tone = "plain"
    small: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first column names its rows.

    Attributes:
        caption: what it holds.
        columns: headings.
        rows: as many cells each as there are columns.
        texts: the first so many columns are text, the others numbers.
        folded: HTML shows it when asked to.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    texts: int = 1
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph; one with a tone other than plain stands out."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A line to be copied, as it is."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart, and the table that says the same in numbers.

    Attributes:
        title: what it shows.
        note: how to read it.
        drawing: HTML with SVG.
        table: its numbers; Markdown has this in place of the drawing. None where another table in the section has them.
    """

    title: str
    note: str
    drawing: Markup
    table: Table | None


Block = Paragraph | Code | Table | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report; ``name`` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The answer in one line.

    Attributes:
        figure: a number to be seen first, like ``"1.73x"``; empty where no number may be quoted.
        text: the answer.
        remarks: what belongs to it.
        tone: good only where something is faster beyond doubt.
    """

    figure: str
    text: str
    remarks: tuple[str, ...]
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report.

    Attributes:
        title: what was measured.
        subtitle: where and when.
        headline: the answer.
        sections: all else.
    """

    title: str
    subtitle: str
    headline: Headline
    sections: tuple[Section, ...]
