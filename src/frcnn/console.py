"""What the verbs print: tables and lines on standard output, progress and warnings on standard error.

Names, labels and notes in files are untrusted: nothing that is printed here can steer a terminal. What its encoding
lacks is printed as an escape.
"""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from rich import progress
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from frcnn.errors import printable
from frcnn.files import standard_output, write_text

_STEPS_SHOWN: Final = 6
_LOGGED_S: Final = 1.0
_WIDTH_OF_A_FILE: Final = 160
_GAP: Final = 2
_NAME, _PROSE = 28, 16  # least widths of columns of names and of other text that are wider
is_wide = False  # --wide: a narrow terminal shows every column, too
T = TypeVar("T")


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_OF_A_FILE
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=True)


def say(text: str, *, exact: bool = False) -> None:
    """Print a result, one line or several, to standard output; a terminal folds it between words unless ``exact``."""
    with standard_output():
        print(_shown(text) if exact else _folded(_shown(text), stderr=False))


def note(text: str, *, exact: bool = False) -> None:
    """Print a line about the work to standard error; a terminal folds it likewise."""
    text = printable(text)
    print(text if exact else _folded(text, stderr=True), file=sys.stderr)


def _folded(text: str, *, stderr: bool) -> str:
    """Return text whose lines fit a terminal, broken between words; as it is for what is none."""
    console = _console(stderr=stderr)
    if not console.is_terminal:
        return text
    return "\n".join(
        textwrap.fill(
            line,
            console.width,
            subsequent_indent=" " * (2 + len(line) - len(line.lstrip())),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def warn(text: str) -> None:
    """Print a warning to standard error."""
    note(f"warning: {text}")


def write_json(document: object, target: str | None = "-") -> None:
    """Write what msgspec encodes as indented JSON in ASCII, NaN as null, to a file, (``-``) standard output or None."""
    if target is None:
        return
    # not msgspec's own encoder: it refuses file names that are not UTF-8
    text = json.dumps(json.loads(json.dumps(msgspec.to_builtins(document)), parse_constant=lambda _: None), indent=2)
    if target == "-":
        say(text, exact=True)
    else:
        write_text(target, f"{text}\n")


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: Collection[int] = (0,)
) -> None:
    """Print a table to standard output, its columns in the order of their importance; the first names the row.

    Those of ``text_columns`` are text (left), the others numbers (right), which are never cut. A terminal shows as many
    columns as fit and names the others, which ``--wide`` shows in tables below. What is no terminal gets all of them.
    """
    table = [[_shown(cell) for cell in row] for row in (columns, *rows)]
    name, *rest = (_Column(list(cells), i in text_columns, i == 0) for i, cells in enumerate(zip(*table, strict=True)))
    console = _console(stderr=False)
    with standard_output():
        console.print(Text(_shown(title), style="bold"), soft_wrap=False)
        while True:
            totals = [*accumulate((_GAP + column.needed for column in rest), initial=name.needed)]
            fitting = max(1, sum(total <= console.width for total in totals[1:])) if console.is_terminal else len(rest)
            with console.capture() as drawn:
                console.print(_laid_out([name, *rest[:fitting]], console), soft_wrap=False)
            print(*(line.rstrip() for line in drawn.get().splitlines()), sep="\n")
            rest = rest[fitting:]
            if not rest or not is_wide:
                break
            print()
        if rest:
            hidden = ", ".join(column.header for column in rest)
            console.print(Text(f"not shown: {hidden} (--wide shows all columns)", style="dim"), soft_wrap=False)
        print()


class _Column:
    """A column, and the widths that it wants and needs, in a terminal's places."""

    def __init__(self, cells: list[str], is_text: bool, is_name: bool) -> None:
        self.header, self.cells, self.is_text = cells[0], cells[1:], is_text
        widths = [cell_len(line) for cell in self.cells for line in cell.split("\n")]
        self.wanted = max([cell_len(self.header), *widths])
        words = [cell_len(word) for cell in (cells if is_text else cells[:1]) for word in cell.split()]
        self.needed = max([*words, *([] if is_text else widths)], default=0)
        if is_text:
            self.needed = min(self.wanted, _NAME if is_name else max(_PROSE, min(self.needed, _NAME)))


def _laid_out(columns: Sequence[_Column], console: Console) -> Table:
    """Return a table as wide as the console at most; columns get what they need, the narrow ones first what is left."""
    widths = [column.needed for column in columns]
    spare = console.width - _GAP * (len(columns) - 1) - sum(widths)
    if not console.is_terminal:
        console.width += max(0, -spare)
    while spare > 0 and (narrow := [i for i, column in enumerate(columns) if widths[i] < column.wanted]):
        widths[min(narrow, key=widths.__getitem__)] += 1
        spare -= 1
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        side: JustifyMethod = "left" if column.is_text else "right"
        table.add_column(Text(column.header), justify=side, overflow="fold", width=width)
    texts = [column.cells for column in columns]
    cut = [name if " " in name or not console.is_terminal else _middle_cut(name, widths[0]) for name in texts[0]]
    if len(set(cut)) == len(set(texts[0])):
        texts[0] = cut
    for row in zip(*texts, strict=True):
        table.add_row(*map(Text, row))
    return table


def _middle_cut(text: str, width: int) -> str:
    """Return a text without its middle where it is wider: its end tells more than its beginning."""
    head, tail, dots = text[: width // 3], text[-width:], _shown("…")
    while cell_len(head) > width // 3:
        head = head[:-1]
    while cell_len(head + dots + tail) > width:
        tail = tail[1:]
    return text if cell_len(text) <= width else head + dots + tail


def next_step(*words: str | Path, where: str = "") -> None:
    """Print a command to go on with to standard error; words in capitals stand for what only the user knows."""
    with standard_output():
        sys.stdout.flush()
    texts = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    note(f"next{where}: {shlex.join(['frcnn', *texts])}", exact=True)


def few(paths: Iterable[str | Path] | None) -> list[Path | str]:
    """Return words for images in :func:`next_step`: their paths where they are files and few, else ``IMAGES``."""
    known = list(map(Path, paths or ()))
    return [*known] if 0 < len(known) <= 3 and all(path.exists() for path in known) else ["IMAGES"]


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
        return ProgressBar(total=1.0, completed=task.completed, width=10) if task.fields["percent"] else ""


def _progress(*columns: progress.ProgressColumn, has_spinner: bool = False) -> progress.Progress:
    console = _console(stderr=True)
    room = max(10, console.width - 27)  # of a long name the end is cut; bar, share and time stay
    text = progress.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=room))
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
