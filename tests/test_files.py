"""Files are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from frcnn.errors import OutputError
from frcnn.files import replacing, writable_folder, write_text


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
def test_failure_keeps_the_old_file_and_leaves_nothing_else(target: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure):
        write_half_and(failure(), target)
    assert target.read_text() == "old"
    assert files_in(target.parent) == ["model.onnx"]


def test_failure_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"):
        write_half_and(ValueError("stop"), tmp_path / "a.json")
    assert files_in(tmp_path) == []


def test_the_temporary_file_is_beside_the_target_and_has_its_suffix(target: Path) -> None:
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".onnx"
        assert temporary.name.startswith(".")


def test_two_writers_of_one_file_do_not_meet(target: Path) -> None:
    with replacing(target) as first, replacing(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the one that ended last
    assert files_in(target.parent) == ["model.onnx"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.json", "[]")
    assert (tmp_path / "a" / "b" / "c.json").read_text() == "[]"


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "names.txt", "café, 猫\n")
    assert (tmp_path / "names.txt").read_bytes() == "café, 猫\n".encode()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder") as caught, replacing(tmp_path):
        pytest.fail("must not come here")
    assert caught.value.hint == "name a file"


def test_a_file_is_no_folder(target: Path) -> None:
    with pytest.raises(OutputError, match="cannot make the folder"), replacing(target / "model.onnx"):
        pytest.fail("must not come here")
    assert target.read_text() == "old"


def test_a_file_above_is_no_folder(target: Path) -> None:
    with pytest.raises(OutputError, match="cannot make the folder"):
        writable_folder(target / "deeper" / "still")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="cannot write into the folder"), replacing(tmp_path / "a"):
            pytest.fail("must not come here")
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_that_refuses_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frcnn.files.os.access", lambda *_: False)
    with pytest.raises(OutputError, match=f"cannot write into the folder {tmp_path}: permission denied"):
        writable_folder(tmp_path)


def test_a_full_disk_is_an_error_of_ours(target: Path) -> None:
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


def test_a_path_without_a_folder_is_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text("a.json", "{}")
    assert files_in(tmp_path) == ["a.json"]


def test_a_block_that_writes_nothing_leaves_an_empty_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").read_bytes() == b""
