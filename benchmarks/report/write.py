"""``report.md`` and ``report.html``: a run for people to read, from nothing but its ``results.json``."""

from __future__ import annotations

from pathlib import Path

from frcnn.benchmarks.report.content import document_of
from frcnn.benchmarks.report.html_page import html
from frcnn.benchmarks.report.markdown_page import markdown
from frcnn.benchmarks.report.results import Results
from frcnn.files import write_text

__all__ = ["write_report"]


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write both reports into a folder, which is made where there is none.

    Args:
        results: a run; a partial one is reported as such.
        folder: where ``report.md`` and ``report.html`` go.

    Returns:
        the two files.

    Raises:
        OutputError: they cannot be written.
    """
    document = document_of(results)
    written = {folder / "report.md": markdown(document), folder / "report.html": html(document)}
    for path, text in written.items():
        write_text(path, text)
    return list(written)
