"""What is wrong with annotations, in one line that names the file and the annotation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from frcnn.errors import UsageError, one_line
from frcnn.files import missing_file

_NAMES_SHOWN: Final = 10
_LONGEST_VALUE: Final = 80


def names_shown(names: Sequence[str], maximum: int = _NAMES_SHOWN) -> str:
    """Return names for a message: all of a few, the first of many."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(names[:maximum]) + more


def tell_names(tell: Callable[[str], None], names: Sequence[str], what: str) -> None:
    """Say how many names are ``what``, and the first of them; nothing where there are none."""
    if names:
        tell(f"{len(names)} {what}: {names_shown(names)}")


@contextmanager
def reading(path: Path, expected: str, *, option: str = "--annotations") -> Iterator[None]:
    """Report what goes wrong in one line that names the file; ``expected`` is the hint where its content is wrong."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing_file(path, UsageError) from error
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {one_line(error)}", hint="check the path") from error
    except Exception as error:  # files are others': too deep a nesting, an unknown encoding, too large a number
        raise UsageError(f"{option}: {path}: {' '.join(str(error).split())}", hint=expected) from error


def require_unique(what: str, pairs: Iterable[tuple[int | str, int | str]]) -> None:
    """Refuse a value that several have; the second of a pair tells them apart."""
    found: dict[int | str, list[str]] = {}
    for value, name in pairs:
        found.setdefault(value, []).append(repr(name))
    for value, names in found.items():
        if len(names) > 1:
            raise ValueError(f"{len(names)} {what} {value!r}: {names_shown(names)}")


def fault(fields: Any, error: ValueError) -> str:
    """Return what is wrong with an annotation, and what the field has in which it is."""
    field = re.search(r"`\$\.(\w+)", str(error))
    if field is None:
        return str(error)
    value = json.dumps(fields[field[1]], ensure_ascii=False)
    value = re.sub(r'"(NaN|-?Infinity)"', r"\1", value)[:_LONGEST_VALUE]
    return f"{field[1]} is {value}: {error}"


def invalid_annotations(path: Path, invalid: Sequence[str], count: int, expected: str) -> UsageError:
    """Return the error that counts and names the invalid of ``count`` annotations."""
    return UsageError(
        f"--annotations: {path}: {len(invalid)} of {count} annotations are invalid: {names_shown(invalid)}",
        hint=f"{expected}; correct them, or leave them out: --skip-invalid",
    )
