"""How tests are chosen for ``make check``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXPORTING = """
import pytest
import torch

@pytest.fixture
def exports(): raise AssertionError("left out")

@pytest.fixture
def through_another(exports): return exports

def test_takes_shared_exports(exports): pass
def test_takes_them_through_a_fixture(through_another): pass
def test_exports_by_itself(): torch.onnx.export(None)
def test_exports_nothing(): pass
"""


def run_pytest(folder: Path, tests: str, *options: str) -> list[str]:
    """Run tests under the project's configuration; return the lines that pytest ends with, in no terminal."""
    (folder / "test_these.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", folder, *options, folder]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.partition(" short test summary info ")[2].splitlines()[1:]


def test_make_check_leaves_out_what_takes_shared_exports_and_refuses_other_exports(tmp_path):
    failed, totals = run_pytest(tmp_path, EXPORTING, "-p", "support.selection", "-p", "no:cacheprovider")
    assert failed.startswith("FAILED test_these.py::test_exports_by_itself - Failed: this test exports: ")
    assert " 1 failed, 1 passed, 2 deselected in " in totals
