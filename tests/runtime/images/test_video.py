"""frcnn.runtime.images.video: written and read back by OpenCV."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.full_disk import files_at_most

from frcnn.errors import ImageError, MissingDependencyError, OutputError
from frcnn.runtime.images.video import open_video, writing_video


def write(path: Path, levels: list[int], height: int = 48, width: int = 64) -> Path:
    with writing_video(path, 10.0) as writer:
        for level in levels:
            frame = np.zeros((height, width, 3), np.uint8)
            frame[:, :, 0] = level  # red: channels must not be swapped
            writer.write(frame)
    return path


def test_frames_come_back_in_order_as_rgb(tmp_path: Path) -> None:
    video = open_video(write(tmp_path / "clip.mp4", [40, 120, 200]))
    assert video.fps == pytest.approx(10)
    assert video.frame_count == 3
    frames = list(video.frames())
    assert [frame.name for frame in frames] == [f"{tmp_path / 'clip.mp4'}#{index}" for index in range(3)]
    for frame, level in zip(frames, [40, 120, 200], strict=True):
        assert frame.size == (48, 64)
        red, green, blue = frame.pixels.reshape(-1, 3).mean(axis=0)
        assert red == pytest.approx(level, abs=12)
        assert max(green, blue) < 25


def test_an_odd_row_and_column_are_dropped(tmp_path: Path) -> None:
    (frame,) = open_video(write(tmp_path / "clip.mp4", [100], 49, 65)).frames()
    assert frame.size == (48, 64)


@pytest.mark.parametrize("content", [b"", b"not a video", None])
def test_a_file_that_is_no_video_is_refused(
    tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"clip\.mp4: (not a video|no such file)"):
        open_video(path)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", [40] * 20)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="damaged"):
        open_video(path)


def test_lost_frames_are_an_error(tmp_path: Path) -> None:
    """As on a full disk: OpenCV says nothing of it."""
    path = tmp_path / "clip.mp4"
    failure = f"cannot write the video to {tmp_path}: 0 of 20 frames arrived"
    with files_at_most(500), pytest.raises(OutputError, match=failure):
        write(path, [40] * 20)


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="got a folder"):
        open_video(tmp_path)


def test_a_video_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write a 48x64 mp4v video"):
        write(tmp_path / "missing" / "clip.mp4", [1])


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="opencv-python-headless"):
        open_video(tmp_path / "clip.mp4")
