"""frcnn.runtime.images.video: written and read back by OpenCV."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.full_disk import files_at_most
from support.names import not_utf8
from support.recordings import record, shown, uneven_times

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


def test_times_are_those_of_the_frames_where_the_rate_is_made_up(tmp_path: Path) -> None:
    times = uneven_times(60)
    path = record(tmp_path / "tab.webm", times, has_rate=False)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 1000  # OpenCV's invention, of which the count follows
    video = open_video(path)
    assert len(list(video.frames())) == 60
    assert video.times_s == pytest.approx(times, abs=1e-6)
    assert (video.fps, video.frame_count) == (25, None)
    video.require_whole()


def test_a_derived_frame_count_is_no_promise(tmp_path: Path) -> None:
    """OpenCV takes the rate of the first second for all: 30 fps, and so many times as many frames as there are."""
    times = [*(index / 30 for index in range(30)), *(1.0 + second for second in range(30))]
    path = record(tmp_path / "screen.mkv", times, codec="libx264", has_rate=False)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 600
    video = open_video(path)
    assert video.frame_count is None
    assert len(list(video.frames())) == 60
    assert video.times_s[-1] == pytest.approx(30)
    video.require_whole()


def test_pictures_that_begin_after_the_sound_are_whole(tmp_path: Path) -> None:
    video = open_video(record(tmp_path / "late.mkv", [5 + index / 30 for index in range(30)]))
    assert len(list(video.frames())) == 30
    video.require_whole()


@pytest.mark.parametrize(
    ("name", "codec", "share"), [("tab.webm", "libvpx", 0.8), ("clip.avi", "mpeg4", 0.2), ("clip.mp4", "libx264", 0.8)]
)
def test_a_file_that_is_cut_off_is_not_whole(tmp_path: Path, name: str, codec: str, share: float) -> None:
    options = {"movflags": "faststart"} if codec == "libx264" else {}
    path = record(tmp_path / name, [index / 30 for index in range(60)], codec=codec, options=options)
    video = open_video(path)
    assert len(list(video.frames())) == 60
    video.require_whole()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    video = open_video(path)
    assert 0 < len(list(video.frames())) < 60
    with pytest.raises(ImageError, match=r"only \d+ frames could be read") as raised:
        video.require_whole()
    assert raised.value.hint == f"{len(whole) - int(len(whole) * share):,} bytes are missing at its end"


def test_a_live_recording_promises_nothing(tmp_path: Path) -> None:
    video = open_video(record(tmp_path / "tab.webm", uneven_times(9), has_rate=False, options={"live": "1"}))
    assert len(list(video.frames())) == 9
    video.require_whole()


def test_a_clip_that_was_trimmed_without_encoding_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Telephones do that: the frames are still in the file, and an edit list leaves them out."""
    path = record(tmp_path / "clip.mp4", [index / 30 for index in range(90)], codec="libx264")
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12  # behind version and count
    _, begin = struct.unpack_from(">Ii", data, place)
    (scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    struct.pack_into(">Ii", data, place, 1500, begin + scale)  # 1.5 s of it, after the first second
    path.write_bytes(data)
    video = open_video(path)
    assert len(list(video.frames())) == 45
    video.require_whole()
    rest = "the others are empty, trimmed away or damaged"
    assert caplog.messages == [f"frcnn: {path}: 45 of its 90 frames were read: {rest}"]


@pytest.mark.parametrize("count", [1, 2, 60])
def test_frames_are_written_at_their_times(tmp_path: Path, count: int) -> None:
    times = uneven_times(60)[-count:]
    with writing_video(tmp_path / "clip.mp4", 25) as writer:
        for index, time_s in enumerate(times):
            writer.write(np.full((48, 64, 3), 4 * index, np.uint8), time_s)
    written, duration = shown(tmp_path / "clip.mp4")
    assert written == pytest.approx([time - times[0] for time in times], abs=1e-4)
    step = (times[-1] - times[0]) / (count - 1) if count > 1 else 1 / 25
    assert duration == pytest.approx(written[-1] + step, abs=1e-4)
    frames = list(open_video(tmp_path / "clip.mp4").frames())
    assert [frame.pixels.mean() for frame in frames] == pytest.approx([4 * index for index in range(count)], abs=6)


def test_times_in_thousandths_of_one_rate_are_written_as_that_rate(tmp_path: Path) -> None:
    with writing_video(tmp_path / "clip.mp4", 30) as writer:
        for index in range(30):
            writer.write(np.zeros((48, 64, 3), np.uint8), round(index / 30, 3))
    assert open_video(tmp_path / "clip.mp4").fps == 30
    assert shown(tmp_path / "clip.mp4")[1] == pytest.approx(1)


def test_a_name_that_is_not_utf8_is_read_and_written(tmp_path: Path) -> None:
    """OpenCV itself dies of it with a segmentation fault."""
    folder = not_utf8(tmp_path)
    path = write(folder / os.fsdecode(b"n\xe9.mp4"), [40, 200])
    assert [frame.name for frame in open_video(path).frames()] == [f"{path}#0", f"{path}#1"]
    assert sorted(folder.iterdir()) == [path]


def test_decoding_keeps_to_the_share_of_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    video = open_video(write(tmp_path / "clip.mp4", [40, 120]))
    assert (video._capture.get(cv2.CAP_PROP_N_THREADS), cv2.getNumThreads()) == (1, 1)
