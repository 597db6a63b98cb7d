"""frcnn.runtime.model_files.engine_artifact: an artifact is recognised by its content and checked by its hashes."""

from __future__ import annotations

import hashlib
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine_files import engine_manifest, engine_parts, write_engine_file

from frcnn.errors import ArtifactError, UsageError
from frcnn.files.archive import write_archive
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact, open_engine_artifact

REBUILD = "build the artifact again: frcnn build model.onnx"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_engine_file(tmp_path / "model.frcnn")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_engine_file(tmp_path_factory.mktemp("engine") / "valid.frcnn", target="tensorrt").read_bytes()


def damage(path: Path, name: str) -> None:
    """Change one byte in the middle of a part."""
    content = bytearray(path.read_bytes())
    content[content.index(engine_parts()[name]) + 2] ^= 1
    path.write_bytes(content)


def test_it_is_opened_by_its_content_whatever_its_name(path: Path, tmp_path: Path, model_path: Path) -> None:
    for name in ("model.onnx", "image.jpg", "engine"):
        artifact = open_artifact(path.rename(tmp_path / name))
        assert isinstance(artifact, EngineArtifact)
        path = artifact.path
    (tmp_path / "model.frcnn").write_bytes(model_path.read_bytes())
    assert isinstance(open_artifact(tmp_path / "model.frcnn"), OnnxArtifact)


def test_manifest_and_parts_come_back(path: Path) -> None:
    artifact = open_engine_artifact(path)
    assert artifact.path == path
    assert artifact.archive.file_bytes == path.stat().st_size
    assert artifact.manifest == engine_manifest(artifact.manifest.parts)
    assert {name: artifact.read_part(name) for name in artifact.manifest.parts} == engine_parts()
    artifact.check_parts()
    assert [record.type for record in artifact.read_precision()] == ["CONVOLUTION", "UNARY"]


def test_a_damaged_part_is_named_with_its_hash(path: Path) -> None:
    name = "engines/boxes.plan"
    damage(path, name)
    artifact = open_engine_artifact(path)  # only the parts that are read are hashed
    artifact.read_part("engines/features.plan")
    for check in (artifact.check_parts, lambda: artifact.read_part(name)):
        with pytest.raises(ArtifactError) as raised:
            check()
        assert raised.value.message.startswith(
            f"{path}: the engine artifact is damaged: the part {name} has the SHA-256"
        )
        assert hashlib.sha256(engine_parts()[name]).hexdigest() in raised.value.message
        assert raised.value.hint == REBUILD


def test_parts_must_be_those_that_the_manifest_lists(tmp_path: Path) -> None:
    parts = engine_parts()
    path = tmp_path / "model.frcnn"
    text = engine_manifest(write_archive(path, b"", parts.items())).to_json()
    write_archive(path, text, [*parts.items(), ("more", b"x")])
    with pytest.raises(ArtifactError, match=r"the part more is not listed in manifest\.json"):
        open_artifact(path)
    write_archive(path, text, list(parts.items())[1:])
    with pytest.raises(ArtifactError, match=r"the part engines/features\.plan is missing"):
        open_artifact(path)
    write_archive(path, text, (parts | {"engines/boxes.plan": b"short"}).items())
    with pytest.raises(ArtifactError, match=r"the part engines/boxes\.plan has 5 bytes, expected 100"):
        open_artifact(path)


def test_a_part_that_does_not_exist_is_an_error(path: Path) -> None:
    with pytest.raises(ArtifactError, match="the engine artifact has no part kernels/x") as raised:
        open_engine_artifact(path).read_part("kernels/x")
    assert raised.value.hint == REBUILD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", "the manifest is damaged"),
        (b"[" * 99_999, "the manifest is damaged"),
        (b'{"schema_version": 7}', "7, exp"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    write_archive(tmp_path / "model.frcnn", text, engine_parts().items())
    with pytest.raises(ArtifactError, match=message) as raised:
        open_artifact(tmp_path / "model.frcnn")
    assert "frcnn build model.onnx" in raised.value.hint


def test_a_checkpoint_is_no_artifact_though_it_is_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "model.frcnn"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.writestr("archive/manifest.json", b"{}")
    with pytest.raises(ArtifactError, match="PyTorch checkpoint"):
        open_artifact(path)


def test_a_truncated_artifact_is_not_taken_for_a_checkpoint(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="the engine artifact is damaged: no readable zip directory") as raised:
        open_artifact(path)
    assert raised.value.hint == REBUILD


def test_an_artifact_need_not_list_its_precision(tmp_path: Path) -> None:
    parts = {name: data for name, data in engine_parts().items() if name != "precision.json"}
    assert open_engine_artifact(write_engine_file(tmp_path / "a", parts=parts)).read_precision() == ()


@pytest.mark.parametrize("text", [b"{}", b'[{"step": 0}]', b"\xff", b"[" * 99_999])
def test_a_wrong_precision_part_is_refused(tmp_path: Path, text: bytes) -> None:
    artifact = open_engine_artifact(write_engine_file(tmp_path / "a", parts=engine_parts() | {"precision.json": text}))
    with pytest.raises(ArtifactError, match=r"the part precision\.json is damaged"):
        artifact.read_precision()


# --- what may be loaded


def test_a_trusted_hash_is_that_of_the_file(path: Path) -> None:
    artifact = open_engine_artifact(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert artifact.archive.sha256() == digest
    artifact.check_trusted(None)
    for trusted in ([digest], {"0" * 64, digest.upper()}, (digest,)):
        artifact.check_trusted(trusted)


@pytest.mark.parametrize("trusted", [[], ["0" * 64], {"ab" * 32}])
def test_a_file_with_an_untrusted_hash_is_refused(path: Path, trusted: list[str]) -> None:
    artifact = open_engine_artifact(path)
    with pytest.raises(ArtifactError) as raised:
        artifact.check_trusted(trusted)
    assert f"SHA-256 {artifact.archive.sha256()} is not among trusted_hashes" in raised.value.message
    assert "engines/features.plan" in raised.value.message


def test_hashes_of_parts_are_not_hashes_of_the_file(path: Path) -> None:
    artifact = open_engine_artifact(path)
    with pytest.raises(ArtifactError, match="is not among trusted_hashes"):
        artifact.check_trusted([part.sha256 for part in artifact.manifest.parts.values()])


@pytest.mark.parametrize("trusted", ["0" * 64, ["abc"], [b"0" * 64], ["0" * 64, "0x" + "0" * 62]])
def test_an_invalid_hash_is_a_usage_error(path: Path, trusted: object) -> None:
    with pytest.raises(UsageError, match="trusted_hashes: expected") as raised:
        open_engine_artifact(path).check_trusted(trusted)  # type: ignore[arg-type]
    assert "sha256sum" in raised.value.hint


def test_a_file_that_replaces_the_opened_one_is_not_trusted(path: Path, tmp_path: Path) -> None:
    """The manifest that was read and the bytes that are hashed must be of one file."""
    trusted = hashlib.sha256(path.read_bytes()).hexdigest()
    good = path.read_bytes()
    evil = write_engine_file(tmp_path / "evil", cuda_major=12).read_bytes()
    assert len(good) == len(evil)
    path.write_bytes(evil)
    artifact = open_engine_artifact(path)
    path.write_bytes(good)
    with pytest.raises(ArtifactError, match="changed while it was read"):
        artifact.check_trusted([trusted])


# --- random damage


@given(where=st.floats(0, 1, exclude_max=True), new=st.binary(min_size=1, max_size=4), insert=st.booleans())
def test_damage_changes_nothing_or_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, valid: bytes, where: float, new: bytes, *, insert: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.frcnn"
    at = int(where * len(valid))
    path.write_bytes(valid[:at] + new + valid[at + (0 if insert else len(new)) :])
    with suppress(ArtifactError):
        artifact = open_artifact(path)
        assert isinstance(artifact, EngineArtifact)
        found = {name: artifact.read_part(name) for name in artifact.manifest.parts}
        artifact.check_parts()
        assert found == engine_parts(target="tensorrt")
        assert artifact.manifest == engine_manifest(artifact.manifest.parts, target="tensorrt")


def test_every_truncation_is_noticed(tmp_path: Path, valid: bytes) -> None:
    path = tmp_path / "model.frcnn"
    for length in range(0, len(valid), 17):
        path.write_bytes(valid[:length])
        with pytest.raises(ArtifactError):
            open_artifact(path)
