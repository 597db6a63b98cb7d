"""Archives: what is written is whole and the same each time, what is read is what was written, or refused."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.hostile.watch import memory_below

from frcnn.errors import ArtifactError, OutputError
from frcnn.files.archive import Archive, is_archive, open_archive, write_archive
from frcnn.spec.engine import MANIFEST_PART, Part

MANIFEST = b'{"what": "a manifest"}'
PARTS = {"engines/0.engine": bytes(range(256)) * 2, "kernels/a.cubin": b"\x7fELF" * 30, "precision.json": b"[]"}


def write(path: Path, parts: Mapping[str, bytes] = PARTS) -> dict[str, Part]:
    return write_archive(path, MANIFEST, parts.items())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.frcnn"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a valid archive."""
    path = tmp_path_factory.mktemp("archive") / "valid.frcnn"
    write(path)
    return path.read_bytes()


LISTED = {name: Part(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in PARTS.items()}


def content(archive: Archive) -> tuple[bytes, dict[str, bytes]]:
    """All that an archive gives out when its manifest lists what was written."""
    archive.check_listed(LISTED)
    return archive.manifest_bytes, {name: archive.read(name, part) for name, part in LISTED.items()}


# --- writing


def test_a_written_archive_reads_the_same(path: Path) -> None:
    assert write(path) == LISTED
    archive = open_archive(path)
    assert tuple(archive.entries) == tuple(PARTS)
    assert archive.file_bytes == path.stat().st_size
    assert content(archive) == (MANIFEST, PARTS)
    assert {name: b"".join(archive.stream(name, part)) for name, part in LISTED.items()} == PARTS


def test_it_is_an_ordinary_zip_of_stored_entries_with_the_manifest_first(path: Path) -> None:
    write(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [MANIFEST_PART, *PARTS]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {stat.S_IFMT(info.external_attr >> 16) for info in archive.infolist()} == {stat.S_IFREG}
        assert archive.read("kernels/a.cubin") == PARTS["kernels/a.cubin"]


def test_the_same_parts_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write(path)
    sources = {name: tmp_path / f"part{index}" for index, name in enumerate(PARTS)}
    for name, source in sources.items():
        source.write_bytes(PARTS[name])
        os.utime(source, (1, 1))
    assert write_archive(tmp_path / "of_files", MANIFEST, sources.items()) == LISTED
    views = [(name, memoryview(data)) for name, data in PARTS.items()]
    assert write_archive(tmp_path / "of_views", MANIFEST, views) == LISTED
    assert (tmp_path / "of_files").read_bytes() == (tmp_path / "of_views").read_bytes() == path.read_bytes()


def test_a_view_of_wider_numbers_is_its_bytes(path: Path) -> None:
    listed = write_archive(path, MANIFEST, [("numbers", memoryview(bytes(range(16))).cast("I"))])
    assert listed["numbers"].size_bytes == 16
    assert open_archive(path).read("numbers", listed["numbers"]) == bytes(range(16))


def test_the_manifest_may_be_made_of_the_sizes_and_hashes(path: Path) -> None:
    write_archive(path, lambda listed: repr(sorted(listed.items())).encode(), PARTS.items())
    assert open_archive(path).manifest_bytes == repr(sorted(LISTED.items())).encode()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, ValueError])
def test_a_failure_leaves_the_old_file_and_nothing_else(path: Path, failure: type[BaseException]) -> None:
    path.write_text("old")

    def manifest(_listed: Mapping[str, Part]) -> bytes:
        raise failure

    with pytest.raises(failure):
        write_archive(path, manifest, PARTS.items())
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_in_the_middle_of_writing_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = zipfile.ZipFile.open

    def interrupted(self: zipfile.ZipFile, entry: zipfile.ZipInfo, mode: str = "r") -> object:
        if entry.filename == "kernels/a.cubin":
            assert len(list(path.parent.iterdir())) == 1  # the temporary file is there
            raise KeyboardInterrupt
        return original(self, entry, mode)

    monkeypatch.setattr(zipfile.ZipFile, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert not list(path.parent.iterdir())


def test_a_file_that_changes_while_it_is_packed_is_refused(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "engine"
    for changed in (b"12345678X", b"1234X678", b"1234"):
        source.write_bytes(b"12345678")

        def manifest(_listed: Mapping[str, Part], changed: bytes = changed) -> bytes:
            source.write_bytes(changed)
            return MANIFEST

        with pytest.raises(ArtifactError, match=f"{source}: it was changed while it was packed"):
            write_archive(path, manifest, [("engine", source)])
        assert not path.exists()


@pytest.mark.parametrize(
    "names",
    [["a", "a"], ["a", "A"], ["manifest.json"], ["../a"], ["/a"], ["a//b"], ["a\\b"], ["a/.b"], [""], ["a", "a/b"]],
)
def test_invalid_part_names_are_not_written(path: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match="parts: the entry"):
        write_archive(path, MANIFEST, [(name, b"") for name in names])
    assert not path.exists()


def test_a_path_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        write(tmp_path)


# --- reading


def test_a_part_that_differs_from_its_listing_is_refused(path: Path) -> None:
    name = "engines/0.engine"
    write(path)
    archive = open_archive(path)
    other = Part(size_bytes=512, sha256="0" * 64)
    for read in (archive.read, lambda *of: b"".join(archive.stream(*of))):
        with pytest.raises(ArtifactError) as raised:
            read(name, other)
        assert f"the part {name} has the SHA-256 {LISTED[name].sha256}, expected {'0' * 64}" in raised.value.message
        assert raised.value.hint == "build the artifact again: frcnn build model.onnx"
        with pytest.raises(ArtifactError, match=f"the part {name} has 512 bytes, expected 511"):
            read(name, Part(size_bytes=511, sha256=LISTED[name].sha256))
        with pytest.raises(ArtifactError, match="the part engines/9 is missing"):
            read("engines/9", other)


def test_the_parts_must_be_those_that_are_listed(path: Path) -> None:
    write(path)
    archive = open_archive(path)
    archive.check_listed(LISTED)
    with pytest.raises(ArtifactError, match=r"the part precision\.json is not listed in manifest\.json"):
        archive.check_listed({name: part for name, part in LISTED.items() if name != "precision.json"})
    with pytest.raises(ArtifactError, match="the part more is missing"):
        archive.check_listed(LISTED | {"more": Part(size_bytes=0, sha256="0" * 64)})
    with pytest.raises(ArtifactError, match=r"the part precision\.json has 2 bytes, expected 3"):
        archive.check_listed(LISTED | {"precision.json": Part(size_bytes=3, sha256="0" * 64)})


def test_the_hash_of_the_file_is_that_of_its_bytes(path: Path) -> None:
    write(path)
    assert open_archive(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("change", ["manifest", "longer", "shorter", "gone"])
def test_a_file_that_was_changed_since_it_was_opened_has_no_hash(path: Path, change: str) -> None:
    write(path)
    archive, whole = open_archive(path), path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        other = whole.replace(b"a manifest", b"A manifest")
        path.write_bytes({"manifest": other, "longer": whole + b"x", "shorter": whole[:-1]}[change])
    with pytest.raises(ArtifactError, match="no such file" if change == "gone" else "changed while it was read"):
        archive.sha256()


def test_an_archive_is_recognised_by_its_first_bytes(path: Path, tmp_path: Path, valid: bytes) -> None:
    for data, expected in (
        (valid, True),
        (valid[:60], True),
        (valid[:40], False),
        (b"PK\x03\x04", False),
        (b"", False),
    ):
        path.write_bytes(data)
        assert is_archive(path) is expected
    with zipfile.ZipFile(path, "w") as checkpoint:
        checkpoint.writestr("archive/data.pkl", b"x")
        checkpoint.writestr(MANIFEST_PART, MANIFEST)
    assert not is_archive(path)
    assert not is_archive(tmp_path)
    assert not is_archive(tmp_path / "missing")


# --- what we never write

Entries = list[tuple[zipfile.ZipInfo, bytes]]


def entry(name: str, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def named(name: str) -> Entries:
    return [(entry(name), b"x")]


HOSTILE: dict[str, tuple[Entries, str]] = {
    "absolute": (named("/etc/passwd"), "the entry name '/etc/passwd' is not allowed"),
    "above": (named("../../evil"), "the entry name '../../evil' is not allowed"),
    "above inside": (named("engines/../../evil"), "is not allowed"),
    "backslash": (named("engines\\0"), "is not allowed"),
    "drive": (named("C:evil"), "is not allowed"),
    "hidden": (named("engines/.ssh"), "is not allowed"),
    "option": (named("-rf"), "is not allowed"),
    "trailing dot": (named("engines/a."), "is not allowed"),
    "folder": (named("engines/"), "is not allowed"),
    "escape sequence": (named("\x1b[2Ja"), "'\\x1b[2Ja' is not allowed"),
    "not ASCII": (named("engines/é"), "is not allowed"),
    "long": (named("a" * 201), "is not allowed"),
    "twice": (named("a") + named("a"), "the entry a is there twice"),
    "twice where case is ignored": (named("a") + named("A"), "the entry A is there twice"),
    "a second manifest": (named("manifest.json"), "the entry manifest.json is there twice"),
    "in a file": (named("a") + named("a/b"), "the entry a/b lies in one that is no folder"),
    "link": ([(entry("a", external_attr=(stat.S_IFLNK | 0o777) << 16), b"/etc")], "is a link"),
    "device": ([(entry("a", external_attr=(stat.S_IFCHR | 0o777) << 16), b"")], "is a link or another special file"),
    "compressed": ([(entry("a", compress_type=zipfile.ZIP_DEFLATED), b"0" * 99)], "the entry a is compressed"),
    "bomb": ([(entry("a", compress_type=zipfile.ZIP_LZMA), bytes(1 << 20))], "the entry a has the flags 0x2"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_unusual_zip_entries_are_refused(path: Path, kind: str) -> None:
    entries, message = HOSTILE[kind]
    with zipfile.ZipFile(path, "w") as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # zipfile remarks on a name that is there twice
        for info, data in [(entry(MANIFEST_PART), MANIFEST), *entries]:
            archive.writestr(info, data)
    with pytest.raises(ArtifactError) as raised:
        open_archive(path)
    assert raised.value.message.startswith(f"{path}: the engine artifact is damaged: ")
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert "\x1b" not in raised.value.message


def central(data: bytes, index: int) -> int:
    """Return where the directory's record of an entry begins."""
    at = -1
    for _ in range(index + 1):
        at = data.index(b"PK\x01\x02", at + 1)
    return at


def patched(data: bytes, changes: dict[int, bytes]) -> bytes:
    changed = bytearray(data)
    for at, new in changes.items():
        changed[at : at + len(new)] = new
    return bytes(changed)


def sized(data: bytes, index: int, size: int) -> bytes:
    """Return the archive with another size of an entry in its directory."""
    return patched(data, {central(data, index) + 20: struct.pack("<2L", size, size)})


MANIPULATED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "no readable zip directory"),
    "no zip": (lambda data: b"hello" * 99, "no readable zip directory"),
    "half": (lambda data: data[: len(data) // 2], "it may be truncated"),
    "encrypted": (lambda data: patched(data, {central(data, 1) + 8: b"\x01"}), "0.engine is encrypted"),
    "descriptor": (lambda data: patched(data, {central(data, 1) + 8: b"\x08"}), "has the flags 0x8, expected none"),
    "own header encrypted": (lambda data: patched(data, {data.index(b"PK\x03\x04", 9) + 6: b"\x01"}), "another header"),
    "own header of another name": (
        lambda data: data.replace(b"precision.json", b"precisioN.json", 1),
        "another header",
    ),
    "own header is none": (lambda data: patched(data, {data.index(b"PK\x03\x04", 9): b"XX"}), "another header"),
    "longer part": (lambda data: sized(data, 1, 513), "kernels/a.cubin overlaps the one before it"),
    "much longer part": (lambda data: sized(data, 1, 0x7FFFFFFF), "0.engine goes beyond the end of the parts"),
    "last part longer": (lambda data: sized(data, 3, 3), "precision.json goes beyond the end of the parts"),
    "longer manifest": (lambda data: sized(data, 0, len(MANIFEST) + 1), "overlaps the one before it"),
    "shorter manifest": (lambda data: sized(data, 0, len(MANIFEST) - 1), "manifest.json has another CRC-32"),
    "huge manifest": (lambda data: sized(data, 0, 5 << 20), "manifest.json has 5,242,880 bytes, expected 4,194,304"),
    "changed manifest": (lambda data: data.replace(b"a manifest", b"b manifest"), "manifest.json has another CRC-32"),
    "all at one place": (
        lambda data: patched(data, {central(data, 1) + 42: bytes(4)}),
        "engines/0.engine overlaps the one before it",
    ),
    "something in front": (lambda data: b"#!/bin/sh\n" + data, "does not begin with manifest.json"),
    "a directory beyond the file": (
        lambda data: patched(data, {len(data) - 10: b"\xff\xff\xff\x7f"}),
        "no readable zip",
    ),
    "another zip version": (lambda data: patched(data, {central(data, 1) + 6: b"\xff"}), "no readable zip directory"),
}


@pytest.mark.parametrize("kind", MANIPULATED)
def test_manipulated_archives_are_refused(path: Path, valid: bytes, kind: str) -> None:
    manipulate, message = MANIPULATED[kind]
    path.write_bytes(manipulate(valid))
    with pytest.raises(ArtifactError) as raised:
        open_archive(path)
    assert message in raised.value.message
    assert raised.value.message.startswith(str(path))
    assert raised.value.hint == "build the artifact again: frcnn build model.onnx"


def test_an_archive_without_a_manifest_or_with_another_first_is_refused(path: Path) -> None:
    for entries in ([], [("a", b"x")], [("a", b"x"), (MANIFEST_PART, MANIFEST)]):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries:
                archive.writestr(entry(name), data)
        with pytest.raises(ArtifactError, match=r"does not begin with manifest\.json"):
            open_archive(path)


def test_every_truncated_archive_is_refused(path: Path, valid: bytes) -> None:
    for length in range(0, len(valid), 3):
        path.write_bytes(valid[:length])
        with pytest.raises(ArtifactError):
            open_archive(path)


def test_a_file_that_cannot_be_read_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        open_archive(tmp_path / "missing")
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        open_archive(tmp_path)


def test_an_endless_directory_does_not_fill_the_memory(path: Path) -> None:
    """A zip may claim a directory as large as itself, with a record for every 46 bytes."""
    record = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    count = (64 << 20) // len(record)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, count * len(record), 0, 0)
    path.write_bytes(record * count + end)
    with memory_below(16 << 20), pytest.raises(ArtifactError, match="it is too large"):
        open_archive(path)


def test_a_part_is_streamed_and_checked_in_little_memory(path: Path) -> None:
    large = bytes(32 << 20)
    listed = write(path, {"large": large})
    archive = open_archive(path)
    with memory_below(4 << 20):
        assert sum(map(len, archive.stream("large", listed["large"]))) == len(large)
        archive.sha256()


# --- random damage: the same content, or an error of ours


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Give a function that damages bytes: a few edits, each somewhere."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "set", "cut", "insert", "copy", "swap", "field"]),
                st.floats(0, 1, exclude_max=True),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=6),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(data: bytes) -> bytes:
        for kind, where, other, new in edits:
            data = _edited(data, kind, int(where * len(data)), int(other * len(data)), new)
        return data

    return damage


def _edited(data: bytes, kind: str, at: int, other: int, new: bytes) -> bytes:
    if not data:
        return data
    if kind == "flip":
        return patched(data, {at: bytes([data[at] ^ (1 << new[0] % 8)])})
    if kind == "set":
        return patched(data, {at: new})[: len(data)]
    if kind == "cut":
        return data[:at] if new[0] % 4 == 0 else data[:at] + data[at + new[0] :]
    if kind == "insert":
        return data[:at] + new + data[at:]
    if kind == "copy":
        return data[:at] + data[other : other + new[0]] + data[at:]
    if kind == "swap":
        return patched(data, {at: data[other : other + 8], other: data[at : at + 8]})[: len(data)]
    records = [i for i in range(len(data) - 4) if data[i : i + 4] in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")]
    if not records:
        return data
    field = records[at % len(records)] + other % 46
    return patched(data, {field: new})[: len(data)]


@pytest.mark.slow
@settings(max_examples=400)
@given(damage=damages())
@example(damage=lambda data: data + data)
@example(damage=lambda data: data[:-22] + data[-22:] * 2)
def test_a_damaged_archive_reads_the_same_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, valid: bytes, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.frcnn"
    path.write_bytes(damage(valid))
    with suppress(ArtifactError):
        assert content(open_archive(path)) == (MANIFEST, PARTS)


def test_an_archive_with_a_flipped_bit_reads_the_same_or_is_refused(path: Path, valid: bytes) -> None:
    noticed = 0
    for at in range(0, len(valid) * 8, 11):
        path.write_bytes(patched(valid, {at // 8: bytes([valid[at // 8] ^ (1 << at % 8)])}))
        try:
            assert content(open_archive(path)) == (MANIFEST, PARTS)
        except ArtifactError:
            noticed += 1
    assert noticed > sum(map(len, PARTS.values())) * 8 // 11  # all of the content, and more


@given(data=st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.frcnn"
    path.write_bytes(data)
    with pytest.raises(ArtifactError):
        open_archive(path)
