"""frcnn.runtime.images.sources."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import unprivileged

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.sources import (
    copies_of,
    files_in_folder,
    files_of,
    is_video,
    output_names,
    refuse_overwriting,
    sources_of,
)


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_a_folder_is_sorted_and_not_searched_deeper(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path, "b.JPG", "a.png", "notes.txt", "more.TXT", "clip.MP4", ".hidden.jpg", "deeper/c.jpg", "folder.jpg/x"
    )
    touch(tmp_path, "README", ".DS_Store")
    assert [path.name for path in files_in_folder(tmp_path)] == ["a.png", "b.JPG", "clip.MP4"]
    left_out = "2 folder, 2 .txt, 1 hidden, 1 without a suffix"
    assert caplog.messages == [f"frcnn: {tmp_path}: 6 of 10 are left out: {left_out}"]


def test_a_folder_of_which_all_is_read_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"image{suffix}" for suffix in (".avif", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpg", ".tif")]
    names += [f"clip{suffix}" for suffix in (".3gp", ".m2ts", ".mp4", ".mts", ".ts", ".webm")]
    touch(tmp_path, ".DS_Store", *names)
    assert sorted(path.name for path in files_in_folder(tmp_path)) == sorted(names)
    assert not caplog.messages


def test_links_in_a_folder_are_files_and_those_to_nothing_are_errors(tmp_path: Path) -> None:
    """As of git annex: images that were not fetched are no small folder."""
    touch(tmp_path, "real.jpg")
    for name, target in {"a.jpg": "real.jpg", "b.jpg": "gone.jpg", "c.jpg": "c.jpg", "d.txt": "gone"}.items():
        (tmp_path / name).symlink_to(target)
    files, errors = files_of([str(tmp_path), str(tmp_path / "real.jpg")])
    assert [path.name for path in files] == ["a.jpg", "real.jpg"]
    assert [Path(name).name for name in errors] == ["b.jpg", "c.jpg"]
    assert all(error.message == f"{name}: a link to a file that is not there" for name, error in errors.items())


def test_a_pipe_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would be waited for."""
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert files_in_folder(tmp_path) == [tmp_path / "a.jpg"]
    assert caplog.messages == [f"frcnn: {tmp_path}: 1 of 2 are left out: 1 pipe or device"]


@pytest.mark.parametrize("address", ["https://host/a.jpg", "s3://bucket/a/", "rtsp://10.0.0.7:554/live"])
def test_an_address_is_named_as_it_was_given(address: str) -> None:
    files, errors = files_of([address])
    assert (files, list(errors)) == ([], [address])
    assert errors[address].message == f"{address}: expected a file, got an address"
    with pytest.raises(ImageError, match=f"^{re.escape(address.rstrip('/'))}: expected a file, got an address"):
        RGBImage.open(Path(address))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "deeper/c.jpg")
    with pytest.raises(ImageError, match=r"the folder has none \(but 1 folder, 1 .txt\)") as raised:
        files_in_folder(tmp_path)
    assert "folders inside it are not searched" in raised.value.hint


def test_files_of_keeps_order_drops_repeats_and_collects_errors(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.png", "one/b.png", "z.odd")
    (tmp_path / "empty").mkdir()
    files, errors = files_of(
        str(tmp_path / name) for name in ("z.odd", "one/b.png", "one", "missing.jpg", "empty", "one/../z.odd")
    )
    assert [path.name for path in files] == ["z.odd", "b.png", "a.png"]
    assert [Path(name).name for name in errors] == ["missing.jpg", "empty"]


def test_equal_names_do_not_overwrite_each_other() -> None:
    files = [Path(name) for name in ("a/p.jpg", "b/p.jpg", "c/P.JPG", "p.png", "p.webp", "p.mp4", "p.mov", "p-2.jpg")]
    names = output_names(files)
    assert names[Path("a/p.jpg")] == "p.jpg"
    assert names[Path("b/p.jpg")] == "p-2.jpg"
    assert names[Path("p.webp")] == "p-2.png"
    assert names[Path("p.mov")] == "p-2.mp4"
    assert len({name.lower() for name in names.values()}) == len(files)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "a.jpg")
    refuse_overwriting([tmp_path / "out" / "a.jpg"], [image])
    with pytest.raises(UsageError, match=r"a\.jpg is an input and would be overwritten"):
        refuse_overwriting([tmp_path / "deeper" / ".." / "a.jpg"], [image])


def test_videos_are_recognised_by_their_suffix() -> None:
    assert is_video(Path("a.MP4"))
    assert not is_video(Path("a.gif"))
    assert not is_video(Path("mp4"))


def found(arguments: Sequence[object], **options: bool) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """Return (kind, name, place) of each source, and the message of each error."""
    sources, errors = sources_of(map(str, arguments), **options)
    return [(s.kind, s.name, str(s.place)) for s in sources], {name: error.message for name, error in errors.items()}


def names(found: list[tuple[str, str, str]], folder: Path) -> list[str]:
    return [os.path.relpath(name, folder) for _, name, _ in found]


def test_a_pattern_is_the_files_that_it_matches_and_a_file_of_that_name_wins(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1.jpg", "a/b/2.jpg", "a/.hidden/3.jpg", "a/.4.jpg", "a/notes.txt", "a/[1].jpg", "[z].jpg", "z.jpg"
    )
    assert names(found([tmp_path / "a/**/*.jpg"])[0], tmp_path) == ["a/1.jpg", "a/[1].jpg", "a/b/2.jpg"]
    assert names(found([tmp_path / "a/.hidden/*"])[0], tmp_path) == ["a/.hidden/3.jpg"]
    assert names(found([tmp_path / "[z].jpg"])[0], tmp_path) == ["[z].jpg"]
    assert names(found([tmp_path / "a/[1].jpg", tmp_path / "?.jpg"])[0], tmp_path) == ["a/[1].jpg", "z.jpg"]
    assert [place for _, _, place in found([tmp_path / "*/b/*.jpg"])[0]] == ["2.jpg"]


def test_a_pattern_of_folders_stands_for_what_is_in_them(tmp_path: Path) -> None:
    touch(tmp_path, "day-1/a.jpg", "day-2/a.jpg", "other/a.jpg")
    assert names(found([tmp_path / "day-*"])[0], tmp_path) == ["day-1/a.jpg", "day-2/a.jpg"]


def test_a_pattern_is_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    monkeypatch.chdir(tmp_path / "b")
    assert [name for _, name, _ in found(["*.jpg", "../a/*.jpg"])[0]] == ["2.jpg", "../a/1.jpg"]


def test_a_pattern_without_a_match_is_an_error(tmp_path: Path) -> None:
    sources, errors = found([tmp_path / "*.jpg", tmp_path / "a**" / "b"])
    assert sources == []
    assert errors[str(tmp_path / "*.jpg")] == f"{tmp_path / '*.jpg'}: no file has such a name"
    assert len(errors) == 2


def test_a_list_names_files_from_its_own_folder_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/images/a.jpg", "set/images/b.jpg", "else/where.jpg", "set/deeper/c.mp4")
    absolute = tmp_path / "else" / "where.jpg"
    lines = f"./images/a.jpg\r\n\r\n  images/b.jpg \nimages/gone.jpg\n{absolute}\ndeeper\nimages/*.jpg\n"
    (tmp_path / "set" / "train.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    monkeypatch.chdir(tmp_path / "else")
    sources, errors = found(["../set/train.txt"])
    assert names(sources, tmp_path / "else") == [
        "../set/images/a.jpg",
        "../set/images/b.jpg",
        "where.jpg",
        "../set/deeper/c.mp4",
    ]
    assert errors == {"images/gone.jpg": "../set/images/gone.jpg: no such file or folder"}


def test_what_a_list_cannot_hold_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "outer.txt").write_text("empty.txt\n-\n")
    expected = "expected paths, one a line, or an image, got"
    assert found([tmp_path / "empty.txt"])[1] == {
        str(tmp_path / "empty.txt"): f"{tmp_path / 'empty.txt'}: {expected} nothing"
    }
    assert found([tmp_path / "binary.txt"])[1] == {
        str(tmp_path / "binary.txt"): f"{tmp_path / 'binary.txt'}: {expected} other bytes"
    }
    sources, errors = found([tmp_path / "outer.txt"])  # a list in a list is a file like others: not read as one
    assert names(sources, tmp_path) == ["empty.txt"]
    assert list(errors) == ["-"]


def test_an_image_that_is_called_txt_is_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.txt", "PNG")
    assert found([tmp_path / "a.txt"])[0] == [("image", str(tmp_path / "a.txt"), "a.txt")]


def with_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 65, np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM"])
def test_an_image_on_standard_input_is_told_from_paths(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of PPM is printable from end to end."""
    with_input(monkeypatch, encoded(kind))
    (source,), errors = sources_of(["-"])
    assert (source.kind, source.name, source.at, errors) == ("encoded", "standard input", encoded(kind), {})


def test_paths_on_standard_input_are_told_from_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["BMW front.jpg", "P6.jpg", "II.jpg", "RIFF.png", "日本.jpg"]
    touch(tmp_path, *lines)
    (tmp_path / os.fsdecode(b"n\xe9.jpg")).touch()
    with_input(monkeypatch, "\n".join(lines).encode() + b"\nn\xe9.jpg\n")
    assert [name for _, name, _ in found(["-"])[0]] == [*lines, os.fsdecode(b"n\xe9.jpg")]
    with_input(monkeypatch, b"")
    assert found(["-"])[1] == {"-": "standard input: expected paths, one a line, or an image, got nothing"}


def test_a_folder_is_searched_deeper_on_request_and_linked_folders_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/b.jpg", "in/a/b.jpg", "in/a/z/clip.mp4", "in/.git/c.jpg", "in/a/notes.md", "out/d.jpg")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "z1").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "z2").symlink_to(tmp_path / "out")
    sources, errors = found([tmp_path / "in"], recursive=True)
    assert [(kind, place) for kind, _, place in sources] == [
        ("image", "b.jpg"),
        ("image", "a/b.jpg"),
        ("video", "a/z/clip.mp4"),
        ("image", "z1/d.jpg"),
    ]
    assert errors == {}


def test_a_folder_in_it_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/locked/b.jpg")
    locked = tmp_path / "in" / "locked"
    locked.chmod(0)
    code = "import sys; from frcnn.runtime.images.sources import sources_of\n"
    code += "print(len(sources_of(sys.argv[1:2], recursive=True)[0]), len(sources_of(sys.argv[2:])[1]))"
    done = subprocess.run(
        [sys.executable, unprivileged.__file__, "-c", code, str(tmp_path / "in"), str(locked)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=False,
    )
    locked.chmod(0o700)
    assert (done.stdout, done.returncode) == ("1 1\n", 0), done.stderr
    assert f"{locked}: the folder cannot be read: Permission denied" in done.stderr


def test_copies_keep_their_places_without_collisions(tmp_path: Path) -> None:
    touch(tmp_path, "x/a/p.jpg", "x/a/p.webp", "x/b/p.jpg", "y/a/p.png", "y/a/P.JPG")
    sources, _ = sources_of([str(tmp_path / "x"), str(tmp_path / "y")], recursive=True)
    copies = copies_of(sources, Path("out"))
    assert {os.path.relpath(source.name, tmp_path): str(path) for source, path in copies.items()} == {
        "x/a/p.jpg": "out/a/p.jpg",
        "x/a/p.webp": "out/a/p.png",
        "x/b/p.jpg": "out/b/p.jpg",
        "y/a/P.JPG": "out/a/P-2.JPG",
        "y/a/p.png": "out/a/p-2.png",
    }


@pytest.mark.parametrize(
    ("argument", "kind", "name", "place"),
    [
        ("0", "live", "0", "camera-0"),
        ("/dev/video12", "live", "/dev/video12", "camera-12"),
        ("rtsp://me:secret@10.0.0.7:554/live?channel=1", "live", "rtsp://***@10.0.0.7:554/live?channel=1", "live"),
        (
            "https://host/a%20b/ph%C3%B6to%2F1.jpg?token=abc",
            "web",
            "https://host/a%20b/ph%C3%B6to%2F1.jpg?token=***",
            "1.jpg",
        ),
        ("HTTP://host.example", "web", "HTTP://host.example", "host.example"),
        ("http://host/..%2f..%2f.ssh", "web", "http://host/..%2f..%2f.ssh", "ssh"),
    ],
)
def test_addresses_and_cameras_are_told_from_files(argument: str, kind: str, name: str, place: str) -> None:
    assert found([argument]) == ([(kind, name, place)], {})


def test_a_file_whose_name_is_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "0")
    assert found(["0", "1"])[0] == [("image", "0", "0"), ("live", "1", "camera-1")]


def test_the_copy_of_an_address_is_free_as_image_and_as_video() -> None:
    sources, _ = sources_of(["http://a/live", "http://b/live", "rtsp://c/live", "http://d/live.jpg"])
    assert [str(path) for path in copies_of(sources, Path("o")).values()] == [
        "o/live.png",
        "o/live-2.png",
        "o/live-3.mp4",
        "o/live-4.jpg",
    ]


def test_verbs_that_take_files_name_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with_input(monkeypatch, encoded("PNG"))
    files, errors = files_of(["rtsp://u:secret@host/live", "7", "-"])
    assert files == []
    assert list(errors) == ["rtsp://***@host/live", "7", "standard input"]
    assert errors["rtsp://***@host/live"].message == "rtsp://***@host/live: expected a file, got an address"
