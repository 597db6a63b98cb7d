"""``frcnn detect`` line by line, and stopped in the middle: what was done is whole and is not lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frcnn.cli import main
from frcnn.runtime.images.video import writing_video
from frcnn.runtime.results.json_lines import ResultLines, partial_path
from frcnn.runtime.streaming.stopping import Stop

pytestmark = pytest.mark.slow

ImageFile = Callable[..., Path]
Captured = pytest.CaptureFixture[str]

MANY = 3000
ENDS_WITHIN_S = 30.0
SIGNALS = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with more images than are done before a signal arrives."""
    folder = tmp_path_factory.mktemp("many")
    Image.fromarray(np.full((60, 80, 3), 250, np.uint8)).save(folder / "0000.png")
    for index in range(1, MANY):
        os.link(folder / "0000.png", folder / f"{index:04}.png")
    return folder


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "frcnn", "detect", *map(str, arguments), "--threads", "1"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_lines(path: Path, process: subprocess.Popen[bytes], *, lines: int = 3) -> None:
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not (path.is_file() and path.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines_of(text: str) -> list[dict[str, Any]]:
    """The records of JSON Lines, every line of which is whole."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def assert_first_of_many(records: list[dict[str, Any]], many: Path) -> None:
    assert 0 < len(records) < MANY
    assert [record["file_name"] for record in records] == [str(many / f"{i:04}.png") for i in range(len(records))]
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert [entry["category_id"] for entry in record["results"]] == [1]
        assert record["results"][0]["image_id"] == record["id"]


@pytest.mark.parametrize(("number", "code", "reason"), SIGNALS)
def test_a_signal_ends_after_the_image_in_hand(
    model_path: Path, many: Path, tmp_path: Path, number: int, code: int, reason: str
) -> None:
    results, copies = tmp_path / "r.json", tmp_path / "copies"
    results.write_text("of the run before")
    process = start(model_path, many, "--json", results, "-o", copies)
    wait_for_lines(partial_path(results), process)
    process.send_signal(number)
    out, printed = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == code, printed.decode()
    assert out == b""
    records = lines_of(partial_path(results).read_text(encoding="utf-8"))
    assert_first_of_many(records, many)
    assert printed.decode().splitlines() == [
        f"what was done is in {partial_path(results)}; {results} was not written",
        f"stopped by {reason} after {len(records)} image(s) of {MANY} input(s)",
    ]
    assert results.read_text() == "of the run before"
    # each image that is reported has its copy, whole; and there are no others, nor anything half-written
    assert sorted(path.name for path in copies.iterdir()) == [f"{i:04}.png" for i in range(len(records))]
    for path in copies.iterdir():
        with Image.open(path) as image:
            image.load()


def test_results_on_standard_output_are_valid_after_a_signal(model_path: Path, many: Path, tmp_path: Path) -> None:
    lines = tmp_path / "r.jsonl"
    process = start(model_path, many, "--json", "-", "--jsonl", lines)
    wait_for_lines(lines, process)
    process.send_signal(signal.SIGTERM)
    out, printed = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 143, printed.decode()
    records = lines_of(lines.read_text(encoding="utf-8"))
    assert_first_of_many(records, many)
    assert json.loads(out) == [entry for record in records for entry in record["results"]]


def test_a_killed_run_keeps_what_was_done_and_a_rerun_ends_well(model_path: Path, many: Path, tmp_path: Path) -> None:
    results = tmp_path / "r.json"
    process = start(model_path, many, "--json", results)
    wait_for_lines(partial_path(results), process)
    process.kill()
    process.communicate(timeout=ENDS_WITHIN_S)
    assert not results.exists()
    text = partial_path(results).read_text(encoding="utf-8")
    assert_first_of_many(lines_of(text[: text.rindex("\n") + 1]), many)
    assert main(["detect", str(model_path), str(many / "0000.png"), "--json", str(results)]) == 0
    assert len(json.loads(results.read_text())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_lines_come_while_the_work_goes_on(model_path: Path, many: Path, tmp_path: Path) -> None:
    process = start(model_path, many, "--jsonl", "-")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert process.poll() is None
    assert first["file_name"] == str(many / "0000.png")
    assert (first["height"], first["width"]) == (60, 80)
    process.stdout.close()  # as `| head -1` does
    assert process.stderr is not None
    with process.stderr as stderr:
        assert (stderr.read(), process.wait(timeout=ENDS_WITHIN_S)) == (b"", 141)


def test_a_finished_run_removes_the_partial_results(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    one, black = image_file("a.png", 250), image_file("b.png", 0)
    results, lines = tmp_path / "out" / "r.json", tmp_path / "out" / "r.jsonl"
    assert main(["detect", str(model_path), str(one), str(black), "--json", str(results), "--jsonl", str(lines)]) == 0
    assert sorted(path.name for path in results.parent.iterdir()) == ["r.json", "r.jsonl"]
    records = lines_of(lines.read_text(encoding="utf-8"))
    assert [(record["file_name"], len(record["results"])) for record in records] == [(str(one), 1), (str(black), 0)]
    assert json.loads(results.read_text()) == records[0]["results"]
    assert capsys.readouterr().out == ""


def test_nothing_usable_leaves_no_file(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    assert main(["detect", str(model_path), str(tmp_path / "bad.png"), "--json", str(tmp_path / "r.json")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


def test_two_results_in_one_file_are_refused(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    for name in ("-", str(tmp_path / "r.json")):
        assert main(["detect", str(model_path), str(image_file("a.png")), "--json", name, "--jsonl", name]) == 2
        assert capsys.readouterr().err.startswith(f"error: two results were to be written to {name}\n")


def test_a_stopped_video_reports_its_frames_and_leaves_no_copy(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.avi"
    with writing_video(clip, 10.0) as writer:
        for _ in range(20):
            writer.write(np.full((64, 64, 3), 250, np.uint8))
    write = ResultLines.write

    def then_signal(self: ResultLines, record: dict[str, Any]) -> None:
        write(self, record)
        if record["frame"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ResultLines, "write", then_signal)
    lines, copies = tmp_path / "r.jsonl", tmp_path / "copies"
    assert main(["detect", str(model_path), str(clip), "--jsonl", str(lines), "-o", str(copies)]) == 143
    assert [record["frame"] for record in lines_of(lines.read_text())] == [0, 1, 2, 3, 4]
    assert list(copies.iterdir()) == []


def test_a_second_signal_interrupts_at_once() -> None:
    with Stop() as stop:
        assert (stop.is_asked, stop.exit_code) == (False, 0)
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.is_asked, stop.exit_code, stop.reason) == (True, 130, "Ctrl-C")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_signal_does_not_wait_for_an_image_that_does_not_come(
    model_path: Path, image_file: ImageFile, tmp_path: Path
) -> None:
    stuck = tmp_path / "stuck.png"
    os.mkfifo(stuck)  # to open it waits for a writer, as a file does whose network is gone
    lines = tmp_path / "r.jsonl"
    process = start(model_path, image_file("a.png"), stuck, "--jsonl", lines)
    wait_for_lines(lines, process, lines=1)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    out, printed = process.communicate(timeout=4)  # a join of the reading thread would take longer
    assert (process.returncode, out, printed) == (143, b"", b"terminated\n")
    assert len(lines_of(lines.read_text())) == 1


def test_a_reader_of_results_that_left_ends_it_quietly(model_path: Path, image_file: ImageFile) -> None:
    for option in ("--json", "--jsonl"):
        process = start(model_path, image_file("a.png", 250), option, "-")
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        with process.stderr as stderr:
            assert (stderr.read(), process.wait(timeout=ENDS_WITHIN_S)) == (b"", 141)


def test_results_go_to_standard_output_and_counts_to_standard_error(
    model_path: Path, image_file: ImageFile, capsys: Captured
) -> None:
    assert main(["detect", str(model_path), str(image_file("a.png", 250)), "--json", "-", "--threads", "1"]) == 0
    out, printed = capsys.readouterr()
    assert len(json.loads(out)) == 1
    assert printed.startswith("1 image(s), 1 object(s) scoring 0.5 or more\nnext: frcnn tune ")


@pytest.fixture
def background() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("background")
def test_an_ignored_signal_stays_ignored() -> None:
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.is_asked
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_two_processes_with_one_file_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first, second = ResultLines(path), ResultLines(path)
    for index in range(100):
        first.write({"first": index})
        second.write({"second": index})
    first.discard()  # ends earlier, and must not take the other's file away
    assert lines_of(path.read_text()) == [{"second": index} for index in range(100)]
    second.discard()
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("option", ["--json", "--jsonl"])
def test_a_full_disk_under_standard_output_is_one_error(model_path: Path, image_file: ImageFile, option: str) -> None:
    command = [sys.executable, "-m", "frcnn", "detect", model_path, image_file("a.png", 250), option, "-"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    with open("/dev/full", "w") as full:
        ended = subprocess.run(list(map(str, command)), env=environment, stdout=full, stderr=subprocess.PIPE)
    lines = ended.stderr.decode().splitlines()
    assert ended.returncode == 2, lines
    assert [line for line in lines if line.startswith(("error: ", "Traceback"))] == [
        "error: cannot write standard output: No space left on device"
    ]
