"""What the long attacks share: how long they go on, and the report that they write.

``make soak`` samples every attack; ``make soak-full`` (``FRCNN_SOAK=full``) reaches the figures that
docs/reliability.md states and writes them to benchmarks/results/soak.json. A test whose attack fails records nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frcnn.benchmarks.timing.environment import read_environment
from frcnn.files import write_text

ROOT = Path(__file__).parents[2]
IS_FULL = os.environ.get("FRCNN_SOAK") == "full"
COMMAND = "make soak-full" if IS_FULL else "make soak"
REPORT = ROOT / "benchmarks" / "results" / "soak.json" if IS_FULL else ROOT / "out" / "soak.json"


@pytest.fixture(scope="session")
def full():
    """Whether the figures of docs/reliability.md are to be reached, rather than sampled."""
    return IS_FULL


@pytest.fixture(scope="session")
def record():
    """``record(attack, figures)`` puts an attack's figures into the report; those of other attacks stay."""

    def put(attack: str, figures: dict[str, Any]) -> None:
        report = json.loads(REPORT.read_text()) if REPORT.exists() else {"schema_version": 1, "attacks": {}}
        environment = read_environment(
            command=COMMAND, threads=1, load_before=None, date=time.strftime("%Y-%m-%dT%H:%M:%S%z"), gpu=None
        )
        report["environment"] = msgspec.to_builtins(environment)
        report["attacks"] |= {attack: figures}
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        write_text(REPORT, json.dumps(report, indent=2) + "\n")

    return put
