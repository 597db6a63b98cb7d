"""The content of a report, apart from its format: ``report.md`` and ``report.html`` are rendered from the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Tone = Literal["plain", "good", "warning", "bad", "quiet", "code"]
"""The colour of a text. The words state the same: a tone is never the only sign. ``code`` is a command to be copied."""


class Cell(NamedTuple):
    """A cell of a table, or an entry of a legend."""

    text: str
    tone: Tone = "plain"
    small: str = ""  # a note under the text
    key: str = ""  # the letter of a series, or number of a stage, that figures refer to
    colour: int = 0  # of the key, 0 to 7
    hollow: bool = False  # figures draw the series in outline, because its detections are wrong


TableRow = tuple[Cell | str, ...]


class Table(NamedTuple):
    """A table; the first column names its rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    text_columns: int = 1  # the first so many columns are text, the others numbers
    folded: bool = False  # HTML shows it on request


class Paragraph(NamedTuple):
    """A paragraph; one with a tone other than plain stands out."""

    text: str
    tone: Tone = "plain"


class Figure(NamedTuple):
    """A figure and its numbers; Markdown has the table in place of the drawing."""

    title: str
    note: str  # how to read it
    svg: str  # trusted HTML of frcnn.benchmarks.report.drawing
    legend: Sequence[Cell] = ()
    table: Table | None = None  # None where another table in the section has the numbers


class Picture(NamedTuple):
    """An image that the page carries with it."""

    jpeg: str  # base64
    text: str  # under it, and for those who cannot see it
    size: tuple[int, int]  # width and height in pixels


class Gallery(NamedTuple):
    """Pictures side by side."""

    pictures: Sequence[Picture]


class Bar(NamedTuple):
    """A named bar."""

    text: str
    value: str
    share: float  # of the longest bar, 0 to 1
    colour: int = 0  # 0 to 7


class Bars(NamedTuple):
    """Bars that are compared with each other."""

    caption: str
    bars: Sequence[Bar]


Block = Paragraph | Table | Figure | Gallery | Bars


class Headline(NamedTuple):
    """The result in one line, and what belongs to it."""

    value: str  # a number to be seen first, like "1.73x"; empty where no number may be quoted
    text: str
    notes: Sequence[str]
    tone: Tone  # good only where something is faster beyond doubt


class Document(NamedTuple):
    """A report: what was measured, where and when, the result, and title -> content of every section."""

    title: str
    subtitle: str
    headline: Headline
    sections: Mapping[str, Sequence[Block]]
