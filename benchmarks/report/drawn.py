"""A row as charts show it: the same letter and colour in all of them."""

from __future__ import annotations

from dataclasses import dataclass

from frcnn.benchmarks.report.charts import COLOURS
from frcnn.benchmarks.report.document import Cell
from frcnn.benchmarks.report.formatting import keys
from frcnn.benchmarks.report.results import Results, Row

__all__ = ["Drawn", "drawn_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A row as charts show it."""

    row: Row
    key: str
    colour: int
    hollow: bool

    @property
    def name(self) -> str:
        """Its name; a wrong row is called wrong wherever it is drawn."""
        return f"{self.row.name} (wrong)" if self.hollow else self.row.name

    def cell(self) -> Cell:
        """Return it as the first cell of a table's row."""
        return Cell(text=self.name, key=self.key)

    def entry(self) -> tuple[str, int, str, bool]:
        """Return it as an entry of a legend."""
        return self.key, self.colour, self.name, self.hollow


def drawn_rows(results: Results) -> list[Drawn]:
    """Return the rows that were measured: right ones filled, wrong ones hollow."""
    found = keys(results)
    return [
        Drawn(row=row, key=found[row.id][0], colour=found[row.id][1] % COLOURS, hollow=row.status == "wrong")
        for row in results.rows
        if row.status in ("ok", "wrong")
    ]
