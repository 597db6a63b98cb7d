"""compute-sanitizer finds nothing in any kernel."""

import shutil
import sys
from pathlib import Path

import pytest

from gpu.system import run, skip_or_fail

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).parent / "sanitized.py"


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_is_clean(device, tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        skip_or_fail("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, str(SCRIPT)]
    done = run(command, timeout_s=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "every kernel ran" in done.stdout
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "RACECHECK SUMMARY: 0 hazards" in done.stdout
