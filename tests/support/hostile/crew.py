"""Workers that read many damaged files, and what came of it; a worker that dies or hangs is replaced and reported."""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from support.hostile.driver import Fault, Tally
from support.hostile.readers import Reader
from support.hostile.worker import NOW, Job

_JOB_INPUTS: Final = 1000
_STARTING_SECONDS: Final = 300.0  # torch is imported, on a system that may be busy
_HANGING_SECONDS: Final = 120.0


@dataclass(slots=True, kw_only=True)
class _Board:
    """What the threads share."""

    jobs: queue.Queue[Job]
    totals: dict[str, Tally]
    faults: list[Fault] = field(default_factory=list)
    grown_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def shared_out(readers: Sequence[Reader], inputs: int) -> dict[str, int]:
    """Return how many of all inputs each reader gets, at least as many as its share says."""
    shares = sum(reader.share for reader in readers)
    return {reader.name: -(-inputs * reader.share // shares) for reader in readers}


def attack(
    readers: Sequence[Reader], inputs: int, *, seed: int, folder: Path, workers: int
) -> tuple[dict[str, Tally], list[Fault], int]:
    """Feed damaged files to the readers; return what came of them, the faults, and the bytes a worker grew by."""
    jobs: queue.Queue[Job] = queue.Queue()
    for name, count in shared_out(readers, inputs).items():
        for begin in range(0, count, _JOB_INPUTS):
            jobs.put(Job(reader=name, seed=seed, begin=begin, end=min(count, begin + _JOB_INPUTS)))
    board = _Board(jobs=jobs, totals={reader.name: Tally() for reader in readers})
    threads = [threading.Thread(target=_work, args=(board, folder / str(number))) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return board.totals, board.faults, board.grown_bytes


def _work(board: _Board, folder: Path) -> None:
    """Do jobs until there are none, in a process that is replaced when it dies."""
    folder.mkdir()
    process = None
    while True:
        try:
            job = board.jobs.get_nowait()
        except queue.Empty:
            break
        if process is None:
            process = _started(folder)
        outcome = _done(process, job, folder)
        with board.lock:
            if isinstance(outcome, Fault):
                board.faults.append(outcome)
                board.totals[job.reader].outcomes["fault"] += 1
                for begin, end in ((job.begin, outcome.index), (outcome.index + 1, job.end)):
                    if begin < end:
                        board.jobs.put(msgspec.structs.replace(job, begin=begin, end=end))
                process = None
            else:
                total = board.totals[job.reader]
                total.outcomes.update(outcome.outcomes)
                total.seconds += outcome.seconds
                board.faults.extend(outcome.faults)
                board.grown_bytes = max(board.grown_bytes, outcome.grown_bytes)
    if process is not None:
        process.communicate(timeout=_STARTING_SECONDS)


def _started(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-X", "faulthandler", "-m", "support.hostile.worker", str(folder)]
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3] / "src")]
    (folder / NOW).unlink(missing_ok=True)
    with (folder / "stderr").open("ab") as stderr:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            env={
                "PYTHONPATH": ":".join(paths),
                "PATH": "/usr/bin:/bin",
                "OMP_NUM_THREADS": "1",
                "HOME": str(folder),
                "TMPDIR": os.environ["TMPDIR"],
            },
        )


def _done(process: subprocess.Popen[bytes], job: Job, folder: Path) -> Tally | Fault:
    """Return what came of a job, or the input with which the worker died or hung."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    process.stdin.flush()
    last, since = -1, time.monotonic()
    while not select.select([process.stdout], [], [], 1.0)[0]:
        index = _now(folder)
        if index != last:
            last, since = index, time.monotonic()
        elif time.monotonic() - since > (_HANGING_SECONDS if index >= 0 else _STARTING_SECONDS):
            process.kill()
            with process:
                process.wait()
            return _fault(job, index, f"no end after {_HANGING_SECONDS:.0f} s")
    line = process.stdout.readline()
    if line:
        return msgspec.convert(msgspec.json.decode(line), Tally, dec_hook=lambda kind, value: kind(value))
    with process:  # it is dead or dying
        code = process.wait()
    index = _now(folder)
    if not job.begin <= index < job.end:
        raise RuntimeError(f"the worker ended with {code} between inputs: {(folder / 'stderr').read_text()[-2000:]}")
    return _fault(job, index, f"the process died: {signal.Signals(-code).name if code < 0 else code}")


def _now(folder: Path) -> int:
    """Return the number of the input in hand; -1 before the first."""
    path = folder / NOW
    number = path.read_bytes() if path.exists() else b""
    return int.from_bytes(number, "little") if number else -1


def _fault(job: Job, index: int, what: str) -> Fault:
    return Fault(reader=job.reader, seed=job.seed, index=index, what=what)
