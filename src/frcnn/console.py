"""What the verbs print: tables and lines on standard output, progress and warnings on standard error.

Names, labels and notes in files are untrusted: nothing that is printed here can steer a terminal. What its encoding
lacks is printed as an escape.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
from rich import progress
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from frcnn.errors import printable
from frcnn.files import standard_output, write_text

_WIDTH_OF_A_FILE = 160
_STEPS_SHOWN: Final = 6
_LOGGED_S: Final = 1.0
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
def steps(*, log: bool = True) -> Iterator[Steps]:
    """Show what goes on, step after step, and for how long, on standard error.

    Yield a function that is told of each step as it begins. A terminal shows the steps while they run and is then as it
    was. Elsewhere each step that takes a second or more leaves a line when it ends, unless ``log`` is False.
    """
    with _progress(_ShareColumn(), progress.TextColumn("{task.fields[percent]}"), has_spinner=True) as shown:
        step = Steps(shown, log=log and shown.disable)
        yield step
        step.end()


class Steps:
    """What :func:`steps` yields; any thread may call it."""

    def __init__(self, shown: progress.Progress, *, log: bool) -> None:
        self._shown, self._log, self._lock = shown, log, threading.Lock()
        self._what, self._since = "", 0.0
        self._line: progress.TaskID | None = None
        self._has_share = False

    def __call__(self, what: str, share: float | None = None) -> None:
        """Begin a step, or tell that one goes on; ``share`` is how much of this and the following is done, 0 to 1.

        Steps with a share follow each other on one line, with a bar.
        """
        what = printable(what)
        with self._lock:
            if what != self._what:
                self._log_step()
                self._what, self._since = what, time.monotonic()
            elif share is None:
                return
            if self._line is None or share is None or not self._has_share:
                if self._line is not None:
                    self._shown.update(self._line, total=1.0, completed=1.0)
                self._line = self._shown.add_task(what, total=None if share is None else 1.0, percent="")
                self._has_share = share is not None
                for old in self._shown.tasks[:-_STEPS_SHOWN]:
                    self._shown.update(old.id, visible=False)
            if share is not None:
                self._shown.update(self._line, description=what, completed=share, percent=f"{share:.0%}")

    def end(self) -> None:
        """End the last step."""
        with self._lock:
            self._log_step()

    def _log_step(self) -> None:
        seconds = time.monotonic() - self._since
        if self._what and self._log and seconds >= _LOGGED_S:
            note(f"{self._what} ({seconds:.1f} s)")


class _ShareColumn(progress.ProgressColumn):
    """A bar for the steps of which a share is known."""

    def render(self, task: progress.Task) -> ProgressBar | str:
        return ProgressBar(total=1.0, completed=task.completed, width=20) if task.fields["percent"] else ""


def _progress(*columns: progress.ProgressColumn, has_spinner: bool = False) -> progress.Progress:
    console, text = _console(stderr=True), progress.TextColumn("{task.description}", markup=False)
    is_utf8 = console.encoding.startswith("utf")
    spinner = progress.SpinnerColumn("dots" if is_utf8 else "line", finished_text="\u2713" if is_utf8 else "+")
    columns = (*([spinner] if has_spinner else []), text, *columns, progress.TimeElapsedColumn())
    return progress.Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # else what is piped would be printed on the terminal
    )


def _shown(text: str) -> str:
    """Return lines as standard output can take them: a table is laid out with its escapes."""
    lines, encoding = "\n".join(map(printable, text.split("\n"))), getattr(sys.stdout, "encoding", None) or "utf-8"
    return lines.encode(encoding, "backslashreplace").decode(encoding)
