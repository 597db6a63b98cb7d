"""A document as one HTML file that needs nothing else: no script, no font, no image from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from frcnn.benchmarks.report.charts import COLOURS, badge
from frcnn.benchmarks.report.document import (
    Block,
    Cell,
    Code,
    Document,
    Figure,
    Headline,
    Paragraph,
    Section,
    Table,
    TableRow,
)
from frcnn.benchmarks.report.formatting import NONE
from frcnn.benchmarks.report.markup import Markup, element

__all__ = ["html"]

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load: nothing. Should anything of the data ever pass for HTML, it can do nothing."""


def html(document: Document) -> str:
    """Return a whole page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", document.title),
        element("style", _style()),
    )
    contents = (element("li", element("a", section.title, href=f"#{section.name}")) for section in document.sections)
    main = element(
        "main",
        element("header", element("h1", document.title), element("p", document.subtitle, class_="subtitle")),
        _headline(document.headline),
        element("nav", element("ul", *contents), aria_label="Parts of this report"),
        *(_section(section) for section in document.sections),
    )
    return f"<!doctype html>\n{element('html', head, element('body', main), lang='en')}\n"


def _style() -> Markup:
    return Markup((files(__package__) / "report.css").read_text(encoding="utf-8"))


def _headline(answer: Headline) -> Markup:
    figure = (element("p", answer.figure, class_="figure", aria_hidden="true"),) if answer.figure else ()
    remarks = (element("ul", *(element("li", remark) for remark in answer.remarks)),) if answer.remarks else ()
    text = element("div", element("p", answer.text, class_="answer"), *remarks)
    return element("div", *figure, text, class_=f"headline {answer.tone}", role="note")


def _section(section: Section) -> Markup:
    title = element("h2", section.title, id=f"{section.name}-title")
    return element(
        "section", title, *map(_block, section.blocks), id=section.name, aria_labelledby=f"{section.name}-title"
    )


def _block(block: Block) -> Markup:
    match block:
        case Paragraph():
            return element("p", block.text, class_=None if block.tone == "plain" else f"callout {block.tone}")
        case Code():
            return element("pre", element("code", block.text))
        case Table():
            return _folded(block) if block.folded else _table(block)
        case Figure():
            return _figure(block)


def _folded(table: Table) -> Markup:
    return element("details", element("summary", f"{table.caption} ({len(table.rows)})"), _table(table))


def _figure(figure: Figure) -> Markup:
    numbers = (element("details", element("summary", "The numbers"), _table(figure.table)),) if figure.table else ()
    caption = element("figcaption", element("h3", figure.title), element("p", figure.note))
    return element("figure", caption, element("div", figure.drawing, class_="chart"), *numbers)


def _table(table: Table) -> Markup:
    """Return a table. Its roles are written out: on a phone its rows are shown as cards, which would lose them."""
    wide = len(table.columns) > 4
    heads = (
        element("th", name, scope="col", role="columnheader", class_=None if place < table.texts else "number")
        for place, name in enumerate(table.columns)
    )
    body = (element("tr", *_cells(table, row), role="row") for row in table.rows)
    return element(
        "div",
        element(
            "table",
            element("caption", table.caption),
            element("thead", element("tr", *heads, role="row"), role="rowgroup"),
            element("tbody", *body, role="rowgroup"),
            role="table",
            class_="cards" if wide else None,
        ),
        class_="scroll",
        role="region",
        aria_label=table.caption,
        tabindex="0",
    )


def _cells(table: Table, row: TableRow) -> list[Markup]:
    cells = []
    for place, (name, cell) in enumerate(zip(table.columns, row, strict=True)):
        content = _cell(cell)
        if place == 0:
            cells.append(element("th", content, scope="row", role="rowheader"))
        else:
            absent = (cell if isinstance(cell, str) else cell.text) == NONE
            kinds = [*(["number"] if place >= table.texts else []), *(["none"] if absent else [])]
            # the label stands before the value where there is no heading above it
            cells.append(element("td", content, role="cell", data_label=name, class_=" ".join(kinds) or None))
    return cells


def _cell(cell: Cell | str) -> Markup:
    if isinstance(cell, str):
        return element("span", cell)
    parts = [badge(cell.key, _colour(cell.key))] if cell.key else []
    tone = f"tone {cell.tone}" if cell.tone != "plain" else None
    parts.append(element("span", cell.text, class_=tone))
    if cell.small:
        parts.append(element("small", cell.small))
    return element("span", *parts, class_="cell")


def _colour(key: str) -> int:
    """Return the colour of a row's letter: ``wording.key_of`` the other way round."""
    place = 0
    for letter in key:
        place = place * 26 + ord(letter) - ord("A") + 1
    return (place - 1) % COLOURS
