"""``frcnn unpack``."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from support.engine_files import engine_parts, static_profile, write_engine_file

from frcnn.cli import main
from frcnn.spec.gpu_runs import loaded_by, read_runs

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_engine_file(tmp_path / "model.frcnn")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def packed(model: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(model) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refused(arguments: list[str], capsys: Captured) -> tuple[str, str]:
    assert main(["unpack", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error, hint = captured.err.splitlines()
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.mark.parametrize("where", ["new", "empty", "deep/er"])
def test_every_part_and_the_manifest_are_written(model: Path, tmp_path: Path, where: str, capsys: Captured) -> None:
    folder = tmp_path / where
    if where == "empty":
        folder.mkdir()
    assert main(["unpack", str(model), "-o", str(folder)]) == 0
    assert files(folder) == packed(model)
    assert files(folder)["engines/features.plan"] == engine_parts()["engines/features.plan"]
    out = capsys.readouterr().out
    assert f"written to {folder}" in out
    assert all(name in out for name in packed(model))
    assert "trtexec" not in out


def test_a_plan_of_tensorrt_comes_with_how_to_run_it(tmp_path: Path, capsys: Captured) -> None:
    profiles = (static_profile(800, 1344, (1, 2, 8)), static_profile(1344, 800))
    model = write_engine_file(tmp_path / "model.frcnn", target="tensorrt", profiles=profiles)
    assert main(["unpack", str(model), "-o", str(tmp_path / "a b")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith(loaded_by(read_runs()))
    lines = [line for line in out.splitlines() if line.startswith("trtexec")]
    engine = f"trtexec '--loadEngine={tmp_path}/a b/engines/model.plan'".replace("'--loadEngine=", "--loadEngine='")
    assert lines == [
        f"{engine} --shapes=images:2x3x800x1344,image_sizes:2x2",
        f"{engine} --shapes=images:1x3x1344x800,image_sizes:1x2 --useProfile=1",
    ]


def test_a_folder_with_something_in_it_is_refused(model: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    error, hint = refused([str(model), "-o", str(folder)], capsys)
    assert error == f"cannot unpack into {folder}: it is not empty, there is notes.txt"
    assert "--force" in hint
    assert files(folder) == {"notes.txt": b"mine"}


def test_force_replaces_files_of_the_same_names_and_leaves_others(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "engines").mkdir(parents=True)
    (folder / "engines/features.plan").write_text("old")
    (folder / "notes.txt").write_text("mine")
    assert main(["unpack", str(model), "-o", str(folder), "--force"]) == 0
    assert files(folder) == packed(model) | {"notes.txt": b"mine"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_does_not_lead_out_of_the_folder(model: Path, tmp_path: Path, capsys: Captured) -> None:
    folder, other = tmp_path / "out", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "engines").symlink_to(other)
    error, _ = refused([str(model), "-o", str(folder), "--force"], capsys)
    assert error == f"cannot write {folder / 'engines/features.plan'}: a link leads out of {folder}"
    assert files(other) == {}


def test_the_folder_itself_may_be_a_link(model: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert main(["unpack", str(model), "-o", str(tmp_path / "out")]) == 0
    assert files(tmp_path / "real") == packed(model)


def test_a_damaged_file_is_not_unpacked(model: Path, tmp_path: Path, capsys: Captured) -> None:
    content = bytearray(model.read_bytes())
    content[content.index(engine_parts()["engines/boxes.plan"])] ^= 1
    model.write_bytes(content)
    error, hint = refused([str(model), "-o", str(tmp_path / "out")], capsys)
    assert "the part engines/boxes.plan has the SHA-256" in error
    assert hint == "build the artifact again: frcnn build model.onnx"
    assert not (tmp_path / "out").exists()


def test_a_part_name_outside_the_folder_is_refused(model: Path, tmp_path: Path, capsys: Captured) -> None:
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("../evil", b"x")
    error, _ = refused([str(model), "-o", str(tmp_path / "out")], capsys)
    assert "the entry name '../evil' is not allowed" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.frcnn"]


def test_a_file_is_no_folder(model: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "out").write_text("a file")
    error, _ = refused([str(model), "-o", str(tmp_path / "out")], capsys)
    assert error == f"cannot make the folder {tmp_path / 'out'}: File exists"


def test_an_onnx_model_has_nothing_to_unpack(model_path: Path, tmp_path: Path, capsys: Captured) -> None:
    error, hint = refused([str(model_path), "-o", str(tmp_path / "out")], capsys)
    assert "expected an engine artifact, got an ONNX model" in error
    assert hint == "build one: frcnn build model.onnx -o model.frcnn"


def test_an_interrupt_leaves_no_half_of_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from frcnn.files.archive import Archive

    stream, calls = Archive.stream, []

    def interrupted(self: Archive, name: str, part: object) -> object:
        calls.append(name)
        if calls.count(name) == 2 and name == "engines/boxes.plan":  # the first time is the check of all hashes
            yield engine_parts()[name][:50]
            raise KeyboardInterrupt
        yield from stream(self, name, part)  # type: ignore[arg-type]

    monkeypatch.setattr(Archive, "stream", interrupted)
    assert main(["unpack", str(model), "-o", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().out == ""
    assert files(tmp_path / "out") == {"engines/features.plan": engine_parts()["engines/features.plan"]}
