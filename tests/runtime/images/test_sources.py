"""frcnn.runtime.images.sources."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.sources import files_in_folder, files_of, is_video, output_names, refuse_overwriting


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
