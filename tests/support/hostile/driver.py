"""Feed damaged files to the readers, count what comes of it, and keep every input that shows a fault."""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from frcnn.errors import FrcnnError
from support.hostile.mutation import mutated
from support.hostile.readers import Reader
from support.hostile.watch import misdeeds

SLOW_SECONDS: Final = 5.0
"""An input of at most 64 KiB that takes a reader more of the processor than this is a fault, too."""

_LONGEST_MESSAGE: Final = 4000


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An input that did what none may do; reader, seed and index make it again."""

    reader: str
    seed: int
    index: int
    what: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of the inputs of a reader: outcomes by name, the first faults, and how much the process grew."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    grown_bytes: int = 0


def inputs_of(reader: Reader, seed: int, index: int) -> bytes:
    """Return the input with that number; the first ones are the valid seeds themselves."""
    if index < len(reader.seeds):
        return reader.seeds[index]
    return mutated(random.Random(f"{seed}/{reader.name}/{index}"), reader.seeds, reader.tokens)


def run_inputs(
    reader: Reader,
    folder: Path,
    numbers: range,
    *,
    seed: int,
    now: Callable[[int], None] = lambda _: None,
    max_faults: int = 20,
) -> Tally:
    """Read the inputs with those numbers from ``folder``, the only place that may change meanwhile.

    ``now`` is told the number of each input before it is read; all faults are counted, the first ones kept.
    """
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in numbers:
            data = inputs_of(reader, seed, index)
            path.write_bytes(data)
            now(index)
            outcome = _outcome(reader, path, folder)
            is_fault = outcome.startswith("fault")
            if is_fault and len(tally.faults) < max_faults:
                tally.faults.append(Fault(reader=reader.name, seed=seed, index=index, what=outcome))
            tally.outcomes["fault" if is_fault else outcome] += 1
    tally.seconds = time.perf_counter() - begin
    with suppress(OSError):
        path.unlink()
    return tally


def _outcome(reader: Reader, path: Path, folder: Path) -> str:
    begin = time.process_time()
    with misdeeds(folder) as seen:
        try:
            reader.read(path)
            outcome = "accepted"
        except FrcnnError as error:
            outcome = _of_error(error)
        except AssertionError as error:
            outcome = f"fault: a wrong answer: {error}"
        except BaseException as error:  # whatever else comes through is what this looks for
            outcome = f"fault: {type(error).__name__}: {error}"[:500]
    if seen:
        return f"fault: {'; '.join(seen)}"[:500]
    taken = time.process_time() - begin
    return f"fault: took {taken:.1f} s" if taken > SLOW_SECONDS else outcome


def _of_error(error: FrcnnError) -> str:
    for text in (error.message, error.hint):
        if not text.isprintable():
            return f"fault: a message that is not one line of text: {text!r}"[:500]
        if len(text) > _LONGEST_MESSAGE:
            return f"fault: a message of {len(text)} characters"
    return type(error).__name__ if error.message else "fault: an error without a message"
