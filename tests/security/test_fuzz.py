"""A few hundred damaged files for every reader; ``make soak`` reads many more."""

import os
import time

import pytest
from support.hostile import driver
from support.hostile.driver import inputs_of, run_inputs
from support.hostile.readers import Reader, readers

from frcnn.errors import UsageError

INPUTS = 300
READERS = {reader.name: reader for reader in readers()}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_damaged_file_does_harm(name, tmp_path):
    tally = run_inputs(READERS[name], tmp_path, range(INPUTS), seed=7)
    assert tally.faults == []
    assert tally.outcomes.total() == INPUTS
    assert tally.outcomes["accepted"] and len(tally.outcomes) > 1


@pytest.mark.parametrize("name", READERS)
def test_the_same_number_makes_the_same_input(name):
    for index in (0, 50, 51):
        assert inputs_of(READERS[name], 7, index) == inputs_of(READERS[name], 7, index)
    assert len({inputs_of(READERS[name], 7, index) for index in range(50, 90)}) > 20


def a_reader(read):
    return Reader("one of ours", "x.txt", [b"seed"], [], read, 1)


def leave(_path):
    raise ZeroDivisionError("a fault")


def lie(_path):
    raise AssertionError("two is three")


def start(_path):
    os.system("true")


def write(path):
    (path.parent.parent / "elsewhere").write_text("x")


def linger(_path):
    begin = time.process_time()
    while time.process_time() - begin < 0.2:
        pass


FAULTS = {
    leave: "fault: ZeroDivisionError: a fault",
    lie: "fault: a wrong answer: two is three",
    start: "fault: os.system",
    write: "fault: open ",
    linger: "fault: took 0.",
}


@pytest.mark.parametrize("read", FAULTS, ids=lambda read: read.__name__)
def test_a_fault_is_noticed(read, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "SLOW_SECONDS", 0.1)
    folder = tmp_path / "in"
    folder.mkdir()
    tally = run_inputs(a_reader(read), folder, range(1), seed=0)
    assert tally.outcomes == {"fault": 1}
    assert tally.faults[0].what.startswith(FAULTS[read])


def test_an_error_of_frcnn_is_no_fault(tmp_path):
    def refuse(_path):
        raise UsageError("no", hint="yes")

    assert run_inputs(a_reader(refuse), tmp_path, range(3), seed=0).outcomes == {"UsageError": 3}
