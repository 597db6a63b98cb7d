"""The run of all that needs a GPU: its order, its limits, and what is left when it is stopped. The parts are fakes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import maintenance.gpu_session as gpu_session
import pytest
from maintenance.gpu_session import PARTS, ROOT, Part, Session, main

TEN_MINUTES_S = 600


def part(name: str, code: str, **rest: Any) -> Part:
    given = {"shows": name, "rehearsal": ("-c", "pass"), "estimated_s": 1, "limit_s": 30} | rest
    return Part(name=name, command=("-c", code), **given)


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "session.json").read_text())
    return report


def test_the_first_run_fits_ten_minutes_even_if_every_part_reaches_its_limit() -> None:
    assert sum(p.limit_s for p in PARTS if not p.is_rest) <= TEN_MINUTES_S
    assert all(p.estimated_s < p.limit_s for p in PARTS)
    assert len({p.name for p in PARTS}) == len(PARTS)
    first = [p.name for p in PARTS if not p.is_rest]
    assert first == ["operators", "device", "sanitizer", "pipeline", "kernels"], "the most valuable comes first"


def test_files_and_modules_of_the_parts_are_there() -> None:
    for command in (arguments for p in PARTS for arguments in (p.command, p.rehearsal)):
        for argument in command:
            if argument.startswith("tests/"):
                assert (ROOT / argument).is_file(), argument
            if argument.startswith("maintenance."):
                assert (ROOT / Path(*argument.split("."))).with_suffix(".py").is_file(), argument


@pytest.mark.slow
def test_a_fault_and_a_limit_stop_no_other_part_and_each_is_kept_at_once(tmp_path: Path) -> None:
    child = tmp_path / "child"
    sleeper = (
        "import subprocess, sys, time, pathlib;"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid)); time.sleep(60)"
    )
    session = Session(tmp_path / "out", tmp_path / "models", rehearse=False)
    assert report_of(tmp_path / "out")["parts"] == []
    assert not session.run(part("faulty", "raise SystemExit(3)"))
    assert [p["ended"] for p in report_of(tmp_path / "out")["parts"]] == ["failed (3)"]
    started = time.monotonic()
    assert not session.run(part("slow", sleeper, limit_s=3))
    assert time.monotonic() - started < 20
    assert session.run(part("good", "print('done')"))
    assert [p["ended"] for p in report_of(tmp_path / "out")["parts"]] == ["failed (3)", "timed out", "passed"]
    assert "done" in (tmp_path / "out" / "log.txt").read_text()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child.read_text()}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{child.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # killed; nobody has asked for its status yet
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child.read_text()}").exists(), "a child outlived its part"


@pytest.mark.slow
def test_a_part_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session, "_GRACE_S", 0.5)
    session = Session(tmp_path, tmp_path, rehearse=False)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    started = time.monotonic()
    assert not session.run(part("stubborn", stubborn, limit_s=2))
    assert time.monotonic() - started < 15
    assert report_of(tmp_path)["parts"][0]["ended"] == "timed out"


@pytest.mark.slow
def test_what_runs_in_a_stopped_process_is_stopped_too(tmp_path: Path) -> None:
    """A part may run commands with limits of their own."""
    child = tmp_path / "child"
    inner = f"import os, pathlib, time; pathlib.Path({str(child)!r}).write_text(str(os.getpid())); time.sleep(60)"
    command = f"[sys.executable, '-c', {inner!r}]"
    outer = f"import sys; from maintenance.gpu_session import run_limited; run_limited({command}, 50)"
    session = Session(tmp_path / "out", tmp_path / "models", rehearse=False)
    assert not session.run(part("nested", outer, limit_s=5))
    assert child.exists(), "the inner command did not begin"
    assert not Path(f"/proc/{child.read_text()}").exists(), "the inner command outlived its part"


def test_tests_are_counted_and_the_failed_named(tmp_path: Path) -> None:
    junit = """<testsuites><testsuite>
      <testcase classname="tests.a" name="test_right"/>
      <testcase classname="tests.a" name="test_wrong"><failure message="AssertionError: 3 px&#10;more"/></testcase>
      <testcase classname="tests.a" name="test_left_out"><skipped message="pycuda is not installed"/></testcase>
    </testsuite></testsuites>"""
    writes = f"import pathlib, sys; pathlib.Path(sys.argv[1]).write_text({junit!r})"
    session = Session(tmp_path, tmp_path, rehearse=False)
    session.run(Part(**_fields(part("operators", "")) | {"command": ("-c", writes, "{out}/operators.xml")}))
    (entry,) = report_of(tmp_path)["parts"]
    assert entry["tests"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert entry["failed"] == {"tests.a::test_wrong": ["AssertionError: 3 px", "more"]}
    assert entry["skipped"] == ["pycuda is not installed"]
    assert not (tmp_path / "operators.xml").exists()


def _fields(given: Part) -> dict[str, Any]:
    return {name: getattr(given, name) for name in Part.__dataclass_fields__}


@pytest.mark.parametrize("rehearse", [False, True])
def test_parts_find_frcnn_and_only_a_real_run_asks_for_a_gpu(tmp_path: Path, rehearse: bool) -> None:
    code = (
        "import json, os, pathlib, sys; import frcnn; pathlib.Path(sys.argv[1]).write_text(json.dumps("
        "[os.environ.get('FRCNN_REQUIRE_GPU'), os.environ['FRCNN_CACHE_DIR'], frcnn.__file__]))"
    )
    command = ("-c", code, "{out}/found.json")
    chosen = Part(**_fields(part("find", "")) | {"command": command, "rehearsal": command})
    assert Session(tmp_path, tmp_path, rehearse=rehearse).run(chosen)
    required, cache, file = json.loads((tmp_path / "found.json").read_text())
    assert required == (None if rehearse else "1")
    assert not Path(cache).exists(), "the part's own cache is left behind"
    assert Path(file).resolve() == ROOT / "src" / "frcnn" / "__init__.py"


def test_what_is_carried_is_fetched_for_the_python_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(gpu_session.subprocess, "run", lambda command, **_: ran.append(command))
    (tmp_path / "carry").mkdir()
    (tmp_path / "carry" / "old").touch()
    gpu_session.fetch("3.12", tmp_path / "carry")
    assert not (tmp_path / "carry" / "old").exists()
    install, export, images, inputs = (" ".join(command) for command in ran)
    assert "--python-version=3.12" in install and "msgspec" in install and f"--target {tmp_path}/carry/site" in install
    assert f"bench_models -o {tmp_path}/carry/models --models demo --target none --make-only" in export
    assert "draw_images" in images
    assert inputs.endswith(f"{tmp_path}/carry/models/inputs.npz")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_session, "PARTS", (part("one", "pass"), part("two", "raise SystemExit(1)", is_rest=True)))
    assert main(["-o", str(tmp_path / "a")]) == 0
    assert main(["-o", str(tmp_path / "b"), "--rest"]) == 1
    assert main(["-o", str(tmp_path / "c"), "--rehearse"]) == 0, "the rehearsal of every part"
    assert [p["part"] for p in report_of(tmp_path / "c")["parts"]] == ["one", "two"]
    assert main(["--list"]) == 0
    assert "one" in capsys.readouterr().out
    assert os.access(ROOT / "maintenance" / "gpu_session.py", os.X_OK)
    assert report_of(tmp_path / "a")["system"]["python"] == sys.version.split()[0]
