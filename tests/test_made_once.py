"""What takes long is made once a run, whichever processes ask, and never half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_once import made_once

TESTS = Path(__file__).parent

ASK = """
import os, sys, time
from pathlib import Path
from support.made_once import made_once

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
    (folder / "a").write_text("half")
    time.sleep(0.5)
    (folder / "a").write_text("whole")

print((made_once("a thing, 3", make) / "a").read_text())
"""


def test_two_processes_that_ask_at_once_get_one_and_the_same(tmp_path):
    environment = {**os.environ, "FRCNN_TEST_FOLDERS": str(tmp_path), "PYTHONPATH": str(TESTS)}
    log = tmp_path / "log"
    command = [sys.executable, "-c", ASK, str(log)]
    asking = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in asking] == ["whole\n"] * 3
    assert log.read_text() == "made\n"


def test_a_failed_attempt_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_TEST_FOLDERS", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        made_once("library", fail)
    folder = made_once("library", lambda empty: (empty / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
