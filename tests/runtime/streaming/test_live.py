"""frcnn.runtime.streaming.live: OpenCV connects to servers of HTTP and RTSP on this system, and loses them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.recordings import record, uneven_times
from support.streams import SIZE, STEP, Live, http_server, rtsp_server

from frcnn.errors import ImageError, ImageSizeError
from frcnn.runtime import frames
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.video import Video
from frcnn.runtime.streaming import live as live_module
from frcnn.runtime.streaming.live import open_stream

pytestmark = pytest.mark.slow


def number_of(image: RGBImage) -> int:
    return int(image.name.rpartition("#")[2])


def level(image: RGBImage) -> int:
    """Which of 30 frames it is, by its grey."""
    return round((float(image.pixels[SIZE[1] // 2, SIZE[0] // 2].mean()) - 10) / STEP)


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    made.ends_after = 0


@pytest.fixture(params=["http", "rtsp"])
def address(request: pytest.FixtureRequest, live: Live) -> Iterator[str]:
    """The address of the stream, with a password that neither server asks for."""
    if request.param == "http":
        with http_server({"/live": (200, {}, live)}) as site:
            yield f"http://me:secret@{site.removeprefix('http://')}/live"
    else:
        with rtsp_server(live) as (host, port):
            yield f"rtsp://me:secret@{host}:{port}/live"


def test_frames_of_a_stream_are_those_that_the_server_sends(address: str) -> None:
    images = []
    for image in frames(address):
        images.append(image)
        if len(images) == 20:
            break
    assert {image.pixels.shape for image in images} == {(SIZE[1], SIZE[0], 3)}
    offsets = {(level(image) - number_of(image)) % 30 for image in images}
    assert len(offsets) == 1  # none is out of order, and numbers count what was dropped
    assert [number_of(image) for image in images] == sorted({number_of(image) for image in images})
    assert all(image.source == image.name and "secret" not in image.name for image in images)
    assert images[0].name.startswith(address.replace("me:secret", "***") + "#")


def test_a_slow_consumer_gets_the_newest_frame(address: str, live: Live) -> None:
    """A frame is at most as old as one takes to arrive, however many came while the last one was looked at."""
    video = open_stream(address)
    ages = []
    for image in video.frames():
        ages.append((int(live.now) - level(image)) % 30)
        time.sleep(0.25)  # 12 frames
        if len(ages) == 8:
            break
    assert max(ages[1:]) <= 6, ages  # of 50 a second; a queue of them would be 12 and more behind each time
    received, dropped = (int(text.split()[0]) for text in video.tally.split(", "))
    assert received >= 80
    assert received - 10 <= dropped <= received - 8


def test_a_stream_that_breaks_is_opened_again(address: str, live: Live, caplog: pytest.LogCaptureFixture) -> None:
    live.ends_after = 20
    numbers = []
    for image in frames(address):
        numbers.append(number_of(image))
        if live.connections >= 3 and numbers[-1] > 45:
            break
    lost, back = caplog.messages[:2]
    shown = address.replace("me:secret", "***")
    assert lost == f"frcnn: {shown}: lost after 20 frame(s); connecting again, for up to 60 s"
    assert back.startswith(f"frcnn: {shown}: back after ")
    assert numbers == sorted(set(numbers))
    assert "secret" not in caplog.text


def test_a_stream_that_stays_away_is_given_up(address: str, live: Live, caplog: pytest.LogCaptureFixture) -> None:
    live.ends_after = 10
    came: list[RGBImage] = []
    start = time.monotonic()

    def collect() -> None:
        for image in frames(address, reconnect_s=1.5):
            live.is_away = True
            came.append(image)

    with pytest.raises(ImageError) as raised:
        collect()
    assert 1.4 < time.monotonic() - start < 6
    shown = address.replace("me:secret", "***")
    assert raised.value.message == f"{shown}: lost after 10 frame(s), and not back within 1.5 s (what came was used)"
    assert number_of(came[-1]) == 9  # the last one that came, for all that was dropped


def test_without_reconnecting_the_first_loss_is_the_end(
    address: str, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    live.ends_after = 10
    with pytest.raises(ImageError, match=r"lost after 10 frame\(s\), and not back within 0 s"):
        list(frames(address, reconnect_s=0))
    assert live.connections == 1
    assert caplog.messages == []


def test_pauses_between_attempts_grow(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    connect = live_module._connect

    def noted(*arguments: Any) -> Any:
        attempts.append(time.monotonic())
        return connect(*arguments) if len(attempts) == 1 else None

    monkeypatch.setattr(live_module, "_connect", noted)
    monkeypatch.setattr(live_module, "_FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.4)
    live.ends_after = 5
    with http_server({"/live": (200, {}, live)}) as site, pytest.raises(ImageError):
        list(frames(f"{site}/live", reconnect_s=1.5))
    pauses = np.diff(attempts[1:])
    assert pauses[:3] == pytest.approx([0.2, 0.4, 0.4], abs=0.09)
    assert len(attempts) <= 6


def test_a_stream_that_falls_silent_is_lost_and_found(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_TIMEOUT_MS", 1000)
    with rtsp_server(live) as (host, port):
        timer = threading.Timer(3.0, setattr, (live, "is_silent", False))
        for image in frames(f"rtsp://{host}:{port}/live"):
            if live.connections >= 2 and number_of(image) > 20:
                break
            if live.connections == 1 and not live.is_silent:
                live.is_silent = True
                timer.start()
    timer.join()
    assert live.connections >= 2


def test_the_end_is_told_while_nothing_comes(live: Live) -> None:
    with rtsp_server(live) as (host, port):
        video = open_stream(f"rtsp://{host}:{port}/live")
        live.is_silent = True
        start = time.monotonic()
        list(video.frames(lambda: time.monotonic() > start + 0.5))
        assert time.monotonic() - start < 3  # not the 10 s that a read may take


def test_a_stream_may_change_its_size(live: Live) -> None:
    sizes = set()
    with http_server({"/live": (200, {}, live)}) as site:
        live.ends_after = 10
        for image in frames(f"{site}/live"):
            sizes.add(image.size)
            live.size = (128, 96)
            if len(sizes) == 2:
                break
    assert sizes == {(64, 96), (96, 128)}


def test_frames_that_are_too_large_are_refused(address: str) -> None:
    with pytest.raises(
        ImageSizeError, match=r"frames of 64x96 are 6,144 pixels, more than the limit of 6,143"
    ) as raised:
        list(frames(address, max_pixels=6143))
    assert "secret" not in raised.value.message


def served(folder: Path) -> dict[str, Any]:
    """Every file of a folder, with a length."""
    return {f"/{path.name}": (200, {}, path.read_bytes()) for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_a_recording_at_an_address_is_read_to_its_end_and_none_of_it_dropped(name: str, tmp_path: Path) -> None:
    times = uneven_times(30)
    record(tmp_path / name, times, codec="libx264" if name.endswith("mp4") else "libvpx")
    with http_server(served(tmp_path)) as site:
        video = open_stream(f"{site}/{name}")
        assert isinstance(video, Video)
        images = []
        for image in video.frames():
            images.append(image)
            time.sleep(0.01)
        assert [number_of(image) for image in images] == list(range(30))
        assert video.times_s == pytest.approx(times, abs=2e-3)
        video.require_whole()


def hls(folder: Path, *, is_over: bool) -> Path:
    """Write a playlist of a second's segments; one that goes on begins 3 of them before its end."""
    playlist = folder / "live.m3u8"
    flags = {} if is_over else {"hls_flags": "omit_endlist"}
    options = {"hls_time": "1", "hls_list_size": "0", "hls_segment_type": "mpegts", **flags}
    with av.open(str(playlist), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "25", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 2 * index, np.uint8), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return playlist


def test_a_playlist_that_is_over_is_a_recording(tmp_path: Path) -> None:
    hls(tmp_path, is_over=True)
    with http_server(served(tmp_path)) as site:
        assert sum(1 for _ in frames(f"{site}/live.m3u8")) == 100


def test_a_playlist_that_goes_on_is_shown_at_its_pace(tmp_path: Path) -> None:
    """Its frames come a segment at a time: the newest one of each would be all that is seen."""
    hls(tmp_path, is_over=False)
    with http_server(served(tmp_path)) as site:
        start, arrivals = time.monotonic(), []
        for image in frames(f"{site}/live.m3u8"):
            arrivals.append((time.monotonic() - start, number_of(image)))
            if number_of(image) >= 50:
                break
    assert len(arrivals) > 40
    assert arrivals[-1][0] - arrivals[0][0] == pytest.approx((arrivals[-1][1] - arrivals[0][1]) / 25, abs=0.3)


def test_a_playlist_cannot_name_files_of_this_system(tmp_path: Path) -> None:
    record(tmp_path / "own.ts", uneven_times(10), codec="libx264")
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/own.ts\n#EXT-X-ENDLIST\n"
    pages = {"/live.m3u8": (200, {}, text.encode())}
    refused = pytest.raises(ImageError, match="something is there, but no stream that OpenCV can play")
    with http_server(pages) as site, refused:
        list(frames(f"{site}/live.m3u8"))


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        (97, "97: OpenCV cannot open camera 97", "cameras under /dev: "),
        (
            "rtsp://me:secret@127.0.0.1:9/x",
            "rtsp://***@127.0.0.1:9/x: cannot be reached: Connection refused",
            "address",
        ),
        (
            "http://me:secret@127.0.0.1:9/x",
            "http://***@127.0.0.1:9/x: cannot be reached: Connection refused",
            "address",
        ),
        ("rtsp://[::1/x", "rtsp://[::1/x: cannot be reached: Invalid IPv6 URL", "address"),
        ("gone.mp4", "gone.mp4: no such file or folder", "check the path"),
    ],
)
def test_what_cannot_be_opened_is_one_line(
    source: str | int, message: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ImageError) as raised:
        list(frames(source))
    assert raised.value.message == message
    assert hint in raised.value.hint
    assert capfd.readouterr().err == ""  # of OpenCV and FFmpeg


def test_a_camera_is_read_like_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No system of ours has one: a file stands behind its number, and pulling the plug is the file's end."""
    clip = record(tmp_path / "clip.mp4", [index / 25 for index in range(25)], codec="libx264")
    opened = []

    def open_file(source: object, _backend: int, parameters: object, *, options: str) -> Any:
        import cv2

        opened.append(source)
        return cv2.VideoCapture(str(clip))

    monkeypatch.setattr(live_module, "open_capture", open_file)
    images = []
    for image in frames(0):
        images.append(image)
        if number_of(image) >= 25:
            break
    assert opened == [0, 0]
    assert images[0].name.startswith("0#")


def test_files_are_read_by_the_same_call(tmp_path: Path) -> None:
    clip = record(tmp_path / "clip.mp4", uneven_times(10), codec="libx264")
    assert [image.name for image in frames(clip)] == [f"{clip}#{index}" for index in range(10)]


def test_the_interpreter_ends_while_a_stream_is_open(live: Live) -> None:
    """Its thread is in a decoder then, or waits for a frame that does not come."""
    code = "import sys; from frcnn.runtime import frames; images = frames(sys.argv[1]); print(next(images).size)"
    with rtsp_server(live) as (host, port):
        done = subprocess.run(
            [sys.executable, "-c", code, f"rtsp://{host}:{port}/live"],
            env={"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(64, 96)\n", "")


def test_no_thread_is_left_behind(address: str) -> None:
    before = threading.active_count()
    images = frames(address)
    next(images)
    images.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "frcnn-live"]
    assert threading.active_count() <= before + 1  # the server's, for a moment
