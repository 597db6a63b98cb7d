"""A process that reads damaged files: a job a line in, a tally a line out. A crash or a hang is its parent's to see.

    python -m support.hostile.worker FOLDER

The number of the input in hand is in FOLDER/now, so that the parent can say which one it was.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec
import torch

from support.hostile.driver import run_inputs
from support.hostile.readers import readers

MEMORY_BYTES: Final = 2 << 30
"""What an input may make the process ask for beyond what it has when it begins."""

NOW: Final = "now"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs of one reader: those with the numbers from ``begin`` to before ``end``."""

    reader: str
    seed: int
    begin: int
    end: int


def _main(folder: Path) -> None:
    torch.set_num_threads(1)
    by_name = {reader.name: reader for reader in readers()}
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is that of the inputs
    before = _largest_bytes()
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    now = os.open(folder / NOW, os.O_RDWR | os.O_CREAT)
    for line in sys.stdin:
        job = msgspec.json.decode(line, type=Job)
        tally = run_inputs(
            by_name[job.reader],
            scratch,
            range(job.begin, job.end),
            seed=job.seed,
            now=lambda index: os.pwrite(now, index.to_bytes(8, "little"), 0),
        )
        tally.grown_bytes = _largest_bytes() - before
        sys.stdout.buffer.write(msgspec.json.encode(tally) + b"\n")
        sys.stdout.flush()


def _largest_bytes() -> int:
    """Return the most memory that the process has had; what getrusage says begins with the parent's."""
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
