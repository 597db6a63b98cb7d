"""Files are whole or not there."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from frcnn.errors import OutputError
from frcnn.files import file_sha256, replacing, writable_file, writable_folder, write_text

KILLED = Path(__file__).parents[1] / "support" / "killed.py"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already, alone in its folder."""
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    path.write_text("old")
    return path


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def write_half_and(failure: BaseException, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise failure


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_success_replaces_the_file(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert files_in(target.parent) == ["model.onnx"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failure_keeps_the_old_file_alone(target: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure):
        write_half_and(failure(), target)
    assert target.read_text() == "old"
    assert files_in(target.parent) == ["model.onnx"]


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"):
        write_half_and(ValueError("stop"), tmp_path / "a.json")
    assert files_in(tmp_path) == []


def test_the_temporary_file_is_beside_the_target_and_has_its_suffix(target: Path) -> None:
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".onnx"
        assert temporary.name.startswith(".")


def test_two_writers_of_one_file_do_not_mix(target: Path) -> None:
    with replacing(target) as first, replacing(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the one that ended last
    assert files_in(target.parent) == ["model.onnx"]


def test_the_next_writer_removes_the_files_of_a_killed_one(target: Path) -> None:
    for number in (1, 2):
        (target.parent / f".model.{number}.tmp.onnx").write_text("half of the ne")
    with replacing(target) as temporary:
        assert temporary.read_bytes() == b""
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert files_in(target.parent) == ["model.onnx"]


def test_links_and_folders_in_the_way_are_left_alone(target: Path) -> None:
    victim, link = target.with_name("victim"), target.with_name(".model.1.tmp.onnx")
    victim.write_text("theirs")
    link.symlink_to(victim)
    target.with_name(".model.2.tmp.onnx").mkdir()
    write_text(target, "new")
    assert (target.read_text(), victim.read_text()) == ("new", "theirs")
    assert files_in(target.parent) == [".model.1.tmp.onnx", ".model.2.tmp.onnx", "model.onnx", "victim"]


WRITER = """
import sys
from frcnn.files import write_text
for round in range(int(sys.argv[3])):
    write_text(sys.argv[1], sys.argv[2] * (20_000 + round))
"""


def writer(target: Path, letter: str, rounds: int, *, at: int = 0) -> subprocess.Popen[bytes]:
    script = target.parents[1] / "writer.py"
    script.write_text(WRITER)
    command = [sys.executable, KILLED, target.parent, at, script, target, letter, rounds]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE)


def test_killed_at_each_of_its_steps_a_writer_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "out" / "a.json"
    (tmp_path / "out").mkdir()
    steps = int(writer(target, "n", 1).communicate()[1])
    assert steps >= 4  # made, opened to write, opened to flush, renamed
    old, new = "o" * 10, "n" * 20_000
    found = []
    for at in range(1, steps + 1):
        target.write_text(old)
        killed = writer(target, "n", 1, at=at)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        found.append(target.read_text())
        assert writer(target, "n", 1).communicate() and target.read_text() == new
        assert files_in(tmp_path / "out") == ["a.json"]
    assert set(found) <= {old, new} and old in found


@pytest.mark.slow
def test_concurrent_and_killed_writers_leave_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "out" / "a.json"
    (tmp_path / "out").mkdir()
    write_text(target, "a" * 20_000)
    living = [writer(target, letter, 300) for letter in "ab"]
    killed = [writer(target, letter, 300, at=at) for letter, at in zip("cdef", (30, 101, 202, 303), strict=True)]
    reads = 0
    while any(process.poll() is None for process in (*living, *killed)):
        content = target.read_text()
        assert len(content) >= 20_000 and len(set(content)) == 1, "half of a file was read"
        reads += 1
    for process in (*living, *killed):
        process.communicate()
    assert [process.returncode for process in living] == [0, 0]
    assert [process.returncode for process in killed] == [-signal.SIGKILL] * 4
    assert reads > 10
    write_text(target, "z")
    assert len(files_in(tmp_path / "out")) <= 1 + 4


@pytest.mark.parametrize("name", ["a.json", "a/b/c.json"])
def test_text_is_written_as_utf8_and_missing_folders_are_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(name, "café, 猫\n")
    assert (tmp_path / name).read_bytes() == "café, 猫\n".encode()
    assert file_sha256(tmp_path / name) == hashlib.sha256("café, 猫\n".encode()).hexdigest()
    assert len(files_in((tmp_path / name).parent)) == 1


def test_a_folder_is_refused_as_a_file(tmp_path: Path) -> None:
    for write in (writable_file, lambda path: write_text(path, "")):
        with pytest.raises(OutputError, match="it is a folder") as caught:
            write(tmp_path)
        assert caught.value.hint == "name a file"


@pytest.mark.parametrize("below", ["model.onnx", "deeper/still"])
def test_a_file_is_refused_as_a_folder(target: Path, below: str) -> None:
    for write in (writable_folder, writable_file, lambda path: write_text(path, "")):
        with pytest.raises(OutputError, match="cannot make the folder"):
            write(target / below / "a.json")
    assert target.read_text() == "old"


def test_a_folder_that_refuses_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frcnn.files.os.access", lambda *_: False)
    with pytest.raises(OutputError, match=f"cannot write into the folder {tmp_path}: permission denied"):
        writable_folder(tmp_path)


def test_a_full_disk_is_an_output_error(target: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx: No space left on device"), replacing(target):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert files_in(target.parent) == ["model.onnx"]


@pytest.mark.usefixtures("umask")
@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced_and_what_it_points_at_is_not(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").read_text() == "new"
    assert (tmp_path / "real").read_text() == "old"


def test_a_block_that_writes_nothing_leaves_an_empty_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").read_bytes() == b""
