"""What the verbs print: tables and lines on standard output, progress and warnings on standard error.

Names, labels and notes in files are untrusted: nothing that is printed here can steer a terminal. What its encoding
lacks is printed as an escape.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from frcnn.errors import printable
from frcnn.files import standard_output, write_text

_WIDTH_OF_A_FILE = 160
T = TypeVar("T")


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_OF_A_FILE
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a result, one line or several, to standard output."""
    with standard_output():
        print(_shown(text))


def note(text: str) -> None:
    """Print a line about the work to standard error."""
    print(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    note(f"warning: {text}")


def write_json(document: object, target: str = "-") -> None:
    """Write what msgspec encodes as indented JSON in ASCII, NaN as null, to a file or (``-``) standard output."""
    # not msgspec's own encoder: it refuses file names that are not UTF-8
    text = json.dumps(json.loads(json.dumps(msgspec.to_builtins(document)), parse_constant=lambda _: None), indent=2)
    if target == "-":
        say(text)
    else:
        write_text(target, f"{text}\n")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> None:
    """Print a table to standard output; the first ``text_columns`` are text (left), the rest numbers (right)."""
    table = Table(title=Text(_shown(title)), title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        is_text = index < text_columns
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    with standard_output():
        _console(stderr=False).print(table, soft_wrap=False)


def track(items: Iterable[T], *, total: int | None, what: str) -> Iterator[T]:
    """Yield the items with a progress bar on standard error; silent where that is no terminal."""
    with _progress(progress.BarColumn(), progress.MofNCompleteColumn()) as shown:
        task = shown.add_task(printable(what), total=total)
        for item in items:
            yield item
            shown.advance(task)


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show that something of unknown length goes on, with the time it has taken, on standard error."""
    with _progress(before=(progress.SpinnerColumn(),)) as shown:
        shown.add_task(printable(what), total=None)
        yield


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, float], None]]:
    """Show how far something is, on standard error; silent where that is no terminal.

    Yield a function that takes what goes on and the share of all work that is done; any thread may call it.
    """
    with _progress(progress.BarColumn(), progress.TaskProgressColumn()) as shown:
        task = shown.add_task(printable(what), total=1.0)
        yield lambda now, share: shown.update(task, description=printable(now), completed=share)


def _progress(*columns: progress.ProgressColumn, before: tuple[progress.ProgressColumn, ...] = ()) -> progress.Progress:
    console, text = _console(stderr=True), progress.TextColumn("{task.description}", markup=False)
    columns = (*before, text, *columns, progress.TimeElapsedColumn())
    return progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _shown(text: str) -> str:
    """Return lines as standard output can take them: a table is laid out with its escapes."""
    lines, encoding = "\n".join(map(printable, text.split("\n"))), getattr(sys.stdout, "encoding", None) or "utf-8"
    return lines.encode(encoding, "backslashreplace").decode(encoding)
