"""frcnn.runtime.images.sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.images.sources import files_in_folder, files_of, is_video, output_names, refuse_overwriting


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_a_folder_is_sorted_and_not_searched_deeper(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "notes.txt", "clip.MP4", ".hidden.jpg", "deeper/c.jpg", "folder.jpg/x")
    assert [path.name for path in files_in_folder(tmp_path)] == ["a.png", "b.JPG", "clip.MP4"]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "deeper/c.jpg")
    with pytest.raises(ImageError, match="the folder has none") as raised:
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
