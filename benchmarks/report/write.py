"""``report.md`` and ``report.html``: a run for people to read, from nothing but its ``results.json``.

Both are Jinja2 templates beside this module. What comes from data is escaped by the templates' environments without
being asked for: names of files and reasons of errors come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frcnn.benchmarks.report.content import document_of
from frcnn.benchmarks.report.document import Cell, Document, Table
from frcnn.benchmarks.report.drawing import check_renderer
from frcnn.benchmarks.report.results import Results
from frcnn.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE: Final = Path(__file__).parent
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters, marks that change the direction of text, and halves of characters that UTF-8 cannot hold."""
_SPECIAL: Final = re.compile(r"([\\`*\[\]<>|~]|&(?=[#\w])|(?<!\w)_|_(?!\w))")
_BLOCK: Final = re.compile(r"^(\d*)([#+\-=]|(?<=\d)[.)])")


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write ``report.md`` and ``report.html`` into a folder, which is made where there is none."""
    document = document_of(results)
    written = {folder / "report.md": markdown(document), folder / "report.html": html(document)}
    for path, text in written.items():
        write_text(path, text)
    return list(written)


def html(document: Document) -> str:
    """Return a page that needs nothing else: no script, no font, no image from elsewhere."""
    from markupsafe import escape

    template = _environment(_HERE, lambda text: str(escape(_plain(text)))).get_template("report.html.j2")
    return template.render(document=document, style=(_HERE / "report.css").read_text(encoding="utf-8"))


def markdown(document: Document) -> str:
    """Return a document with one line a row, no padding, so that a change of one number is a change of one line."""
    return markdown_environment(_HERE).get_template("report.md.j2").render(document=document)


def markdown_environment(folder: Path) -> Environment:
    """Return an environment for a folder of Markdown templates: what is not Markdown already is escaped."""
    environment = _environment(folder, escaped)
    from markupsafe import Markup

    environment.filters |= {
        "line": lambda text: Markup(_BLOCK.sub(r"\1\\\2", escaped(text))),  # at the start of a line more signs count
        "table": lambda table: Markup(_table(table)),
        "fenced": lambda text: Markup(_fenced(text)),
    }
    return environment


def _environment(folder: Path, escape: Callable[[str], str]) -> Environment:
    check_renderer("jinja2")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escape(str(value))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _plain(text: str) -> str:
    """Return text on one line; what could hide other text or change its direction is shown as U+FFFD.

    A line break would end a table's row, and a mark of direction would make "wrong" read as something else.
    """
    return _UNSEEN.sub("\ufffd", " ".join(text.split()))


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too; no HTML in it is ever HTML."""
    return _SPECIAL.sub(r"\\\1", _plain(text))


def _table(table: Table) -> str:
    alignment = ["---"] * table.text_columns + ["---:"] * (len(table.columns) - table.text_columns)
    lines = [[*map(escaped, table.columns)], alignment, *([*map(_cell, row)] for row in table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    key, small = (f"{cell.key}: " if cell.key else ""), (f" ({escaped(cell.small)})" if cell.small else "")
    return f"{key}{escaped(cell.text)}{small}"


def _fenced(text: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}sh\n{_plain(text)}\n{fence}"
