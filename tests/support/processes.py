"""Processes that find frcnn and the tests' support, whether or not they are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(**changed: str) -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))) | changed


def run_python(code: str, *arguments: Any, **variables: str) -> str:
    """Return what a program prints that must end well."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
