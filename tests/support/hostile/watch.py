"""Notice what a parser must never do: start a program, use the network, change files elsewhere, or fill the memory."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_FORBIDDEN: Final = frozenset(
    {
        *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn"),
        *("socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "webbrowser.open"),
    }
)
_CHANGING: Final = frozenset({"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"})
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_inside: str | None = None
_seen: list[str] = []
_is_hooked = False


@contextmanager
def misdeeds(folder: Path) -> Iterator[list[str]]:
    """Yield a list that fills with what the block does and must not; changes inside the folder are no misdeed.

    Python reports such calls of any code, C extensions that go through the interpreter included, to an audit hook.
    """
    global _inside, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_notice)  # a hook cannot be removed; this one does nothing outside the block
        _is_hooked = True
    _seen.clear()
    _inside = os.path.realpath(folder)
    keeps_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # that of a module imported late
    try:
        yield _seen
    finally:
        _inside, sys.dont_write_bytecode = None, keeps_no_bytecode


@contextmanager
def memory_below(limit_bytes: int) -> Iterator[None]:
    """Require that the block never has that many bytes of Python's memory at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    if event in _FORBIDDEN:
        _seen.append(f"{event} {arguments!r}"[:300])
    elif event == "open":
        path, mode, flags = arguments
        writes = (isinstance(mode, str) and any(c in mode for c in "wax+")) or (
            isinstance(flags, int) and flags & _WRITING
        )
        if writes and not isinstance(path, int) and not _is_inside(path):
            _seen.append(f"open {path!r} {mode}")
    elif event in _CHANGING and not _is_inside(arguments[0]):
        _seen.append(f"{event} {arguments!r}"[:300])


def _is_inside(path: Any) -> bool:
    assert _inside is not None
    try:
        real = os.path.realpath(os.fsdecode(path))
    except (TypeError, ValueError):
        return False
    return real == _inside or real.startswith(_inside + os.sep)
