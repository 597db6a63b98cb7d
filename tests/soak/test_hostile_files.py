"""Damaged files by the hundred thousand: none runs code, writes anywhere, kills or fills the process, or is misread.

The processes that read are apart: one that dies or hangs is a fault of the input that it had in hand. A fault is made
again by ``inputs_of(reader, seed, index)``.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.hostile.crew import attack, shared_out
from support.hostile.readers import readers
from support.hostile.worker import NOW

pytestmark = pytest.mark.soak

SEED = 20
FULL_INPUTS, SAMPLE_INPUTS = 1_000_000, 200_000
WORKERS = min(2, len(os.sched_getaffinity(0)))
MAX_GROWN_BYTES = 1 << 30


def test_a_worker_that_dies_is_reported_and_replaced(tmp_path):
    """Show that a crash would be seen: one worker is killed from outside."""
    few, result = [reader for reader in readers() if reader.name in ("label file", "--arg values")], []
    thread = threading.Thread(
        target=lambda: result.extend(attack(few, 8_000, seed=SEED, folder=tmp_path, workers=1)), daemon=True
    )
    thread.start()
    now = tmp_path / "0" / NOW
    while not (now.exists() and now.stat().st_size):
        time.sleep(0.01)
    children = [task.read_text().split() for task in Path("/proc/self/task").glob("*/children")]
    (child,) = {pid for pids in children for pid in pids}
    os.kill(int(child), signal.SIGKILL)
    thread.join()
    totals, (fault,), _ = result
    assert fault.what == "the process died: SIGKILL"
    assert totals[fault.reader].outcomes["fault"] == 1
    assert sum(total.outcomes.total() for total in totals.values()) == 8_000


def test_no_damaged_file_does_harm(full, record, tmp_path):
    inputs, every = FULL_INPUTS if full else SAMPLE_INPUTS, readers()
    begin = time.perf_counter()
    totals, faults, grown_bytes = attack(every, inputs, seed=SEED, folder=tmp_path, workers=WORKERS)
    seconds = time.perf_counter() - begin
    assert faults == [], "\n".join(f"{fault.reader}, {fault.index}: {fault.what}" for fault in faults)
    counts = {name: total.outcomes.total() for name, total in totals.items()}
    assert counts == shared_out(every, inputs)
    assert all(total.outcomes["accepted"] and len(total.outcomes) > 1 for total in totals.values())
    assert grown_bytes < MAX_GROWN_BYTES
    record(
        "hostile files",
        {
            "inputs": sum(counts.values()),
            "faults": 0,
            "seed": SEED,
            "workers": WORKERS,
            "seconds": round(seconds),
            "grown_bytes": grown_bytes,
            "readers": {
                name: {
                    "inputs": counts[name],
                    "outcomes": dict(total.outcomes.most_common()),
                    "inputs_per_second": round(counts[name] / total.seconds),
                }
                for name, total in totals.items()
            },
        },
    )
