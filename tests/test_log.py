"""Warnings through the logger: shown once, as one line, and never an exception."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn.cli import VERBS, Verb, main
from frcnn.log import LOGGER, warn_once

ENVIRONMENT = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1] / "src"))
WARNINGS = """
from frcnn.log import warn_once
for text in ("a cache is full", "a cache is full", chr(10).join(("two", "lines"))):
    warn_once(text)
print("done")
"""


def test_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("a cache is full", "a cache is full", "two\nlines \x1b[2J"):
        warn_once(text)
    assert caplog.messages == ["frcnn: a cache is full", r"frcnn: two\nlines \x1b[2J"]
    assert {(record.name, record.levelname) for record in caplog.records} == {("frcnn", "WARNING")}


@pytest.mark.parametrize("action", ["default", "error", "ignore"])
def test_a_program_without_logging_shows_it_on_standard_error(action: str) -> None:
    command = [sys.executable, "-W", action, "-c", WARNINGS]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert done.stderr.splitlines() == ["frcnn: a cache is full", r"frcnn: two\nlines"]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_warning_that_cannot_be_shown_is_no_failure(stderr: str) -> None:
    # -u: else Python itself fails at its end, when it cannot write what the logger could not
    command = ["sh", "-c", f'exec "$@" {stderr}', "sh", sys.executable, "-u", "-W", "error", "-c", WARNINGS]
    assert subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True).stdout == "done\n"


VERB = '''
"""A stand-in verb."""
from frcnn.errors import OutputError
from frcnn.log import warn_once

def add_arguments(parser):
    pass

def run(arguments):
    warn_once("a cache is full")
    warn_once("a cache is full")
    raise OutputError("cannot write m.onnx", hint="choose another output path with -o")
'''


def test_the_command_shows_a_warning_as_one_line_before_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verb_that_warns.py").write_text(VERB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(VERBS, "fake", Verb("verb_that_warns", "for a test"))
    handlers = LOGGER.handlers[:]
    assert main(["fake"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "warning: a cache is full",
        "error: cannot write m.onnx",
        "hint: choose another output path with -o",
    ]
    assert LOGGER.handlers == handlers
