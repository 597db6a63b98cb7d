"""A document as Markdown: one line a row, no padding, so that a change of one figure is a change of one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from frcnn.benchmarks.report.document import Block, Cell, Code, Document, Figure, Paragraph, Section, Table
from frcnn.benchmarks.report.markup import plain

__all__ = ["blocks_markdown", "escaped", "markdown", "table_markdown"]

_SPECIAL: Final = re.compile(r"([\\`*\[\]<>|~]|&(?=[#\w])|(?<!\w)_|_(?!\w))")
_BLOCK: Final = re.compile(r"^(\d*)([#+\-=]|(?<=\d)[.)])")


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too; no HTML in it is ever HTML."""
    return _SPECIAL.sub(r"\\\1", plain(text))


def _started(text: str) -> str:
    """Return text for the start of a line, where a few more signs have a meaning."""
    return _BLOCK.sub(r"\1\\\2", escaped(text))


def markdown(document: Document) -> str:
    """Return a whole document."""
    answer = document.headline
    parts = [f"# {escaped(document.title)}", _started(document.subtitle), f"**{escaped(answer.text)}**"]
    if answer.remarks:
        parts.append("\n".join(f"- {_started(remark)}" for remark in answer.remarks))
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> Iterable[str]:
    return [f"## {escaped(section.title)}", *blocks_markdown(section.blocks)]


def blocks_markdown(blocks: Iterable[Block]) -> list[str]:
    """Return blocks, each to stand between empty lines."""
    parts = []
    for block in blocks:
        match block:
            case Paragraph():
                parts.append(_started(block.text))
            case Code():
                parts.append(_fenced(block.text))
            case Table():
                parts += [f"{_started(block.caption)}:", table_markdown(block)]
            case Figure() if block.table is not None:
                caption = f"{_started(block.table.caption)}:"
                parts += [f"### {escaped(block.title)}", caption, table_markdown(block.table)]
            case Figure():
                pass  # another table has its numbers
    return parts


def table_markdown(table: Table) -> str:
    """Return a table."""
    rule = ["---"] * table.texts + ["---:"] * (len(table.columns) - table.texts)
    lines = [map(escaped, table.columns), rule, *(map(_cell, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    text = escaped(cell.text)
    if cell.key:
        text = f"{escaped(cell.key)}: {text}"
    return f"{text} ({escaped(cell.small)})" if cell.small else text


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{plain(text)}\n{fence}"
