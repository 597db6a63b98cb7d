"""Live sources: cameras and network streams. A thread reads them, and keeps the newest frame only."""

from __future__ import annotations

import math
import os
import re
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from frcnn.errors import ImageError, one_line, printable, without_credentials
from frcnn.log import LOGGER
from frcnn.runtime.dependencies import import_opencv
from frcnn.runtime.images.addresses import STREAM_SCHEMES, WEB_SCHEMES, scheme_of
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.video import Video, check_frame_size, open_capture, open_video, stated_fps

DEFAULT_RECONNECT_S: Final = 60.0
_TIMEOUT_MS: Final = 10_000
_TIMEOUTS: Final = ("CAP_PROP_OPEN_TIMEOUT_MSEC", "CAP_PROP_READ_TIMEOUT_MSEC")
_POLL_S: Final = 0.1
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_JOIN_S: Final = 1.0
_PORTS: Final = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_PROTOCOLS: Final = "rtsp,rtp,udp,tcp,tls,http,https,httpproxy,crypto"  # no files: a playlist could name them
_FORMATS: Final = "rtsp,rtp,sdp,hls,mpjpeg,mpegts,flv,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mjpeg"
_STREAM: Final = f"rtsp_flags;prefer_tcp|protocol_whitelist;{_PROTOCOLS}|format_whitelist;{_FORMATS}"
_PLAYLIST: Final = re.compile(r"\.m3u8?(?:$|[?#])", re.IGNORECASE)


class Live:
    """An opened camera or stream, whose frames are dropped but for the newest.

    After a loss it is opened again, with growing pauses, for ``reconnect_s`` at most.

    Attributes:
        name: the camera's number, or the address without its password.
        fps: the rate that it states, which need not be that of its frames; 25 if it states none.
    """

    frame_count = None

    def __init__(self, source: str | int, name: str, capture: Any, *, reconnect_s: float, max_pixels: int) -> None:
        self.name = name
        self.fps = stated_fps(capture)
        self._source = source
        self._capture = capture
        self._reconnect_s = reconnect_s
        self._max_pixels = max_pixels
        self._changed = threading.Condition()
        self._newest: tuple[int, float, Any] | None = None
        self._moment = (0, 0.0)
        self._received = self._yielded = self._reconnected = 0
        self._first_s = 0.0
        self._in_bursts = isinstance(source, str) and _PLAYLIST.search(source) is not None
        self._origin_s = -math.inf
        self._end = threading.Event()
        self._error: BaseException | None = None

    def frames(self, is_over: Callable[[], bool] = lambda: False) -> Generator[RGBImage]:
        """Yield the newest frame each time as an 8-bit RGB image, none twice, until it is over or lost for good.

        Frames are named by their numbers, from 0 and counting those dropped: ``rtsp://camera/live#12``.
        """
        cv2 = import_opencv()
        thread = threading.Thread(
            target=self._read, name="frcnn-live"
        )  # no daemon: see Ahead on the interpreter's exit
        thread.start()
        try:
            while not is_over():
                with self._changed:
                    if self._newest is None and not self._end.is_set():
                        self._changed.wait(_POLL_S)
                    newest, self._newest = self._newest, None
                    if newest is None and self._end.is_set():
                        break
                if newest is not None:
                    number, time_s, frame = newest
                    self._moment = number, time_s
                    self._yielded += 1
                    name = f"{self.name}#{number}"
                    yield RGBImage(pixels=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), name=name, source=name)
        finally:
            self._end.set()
            thread.join(_JOIN_S)

    def moment(self, _index: int) -> tuple[int, float]:
        """Return the number of the frame that was yielded last, and its arrival in seconds from that of the first."""
        return self._moment

    @property
    def tally(self) -> str:
        """How many frames came, and what became of them."""
        again = f"; connected again {self._reconnected} time(s)" if self._reconnected else ""
        return f"{self._received} frame(s) came, {self._received - self._yielded} dropped for newer ones{again}"

    def require_whole(self) -> None:
        """Check, after the last frame, that there was one and that the source was not lost for good."""
        if self._error is not None:
            raise self._error
        if self._yielded == 0:
            raise ImageError(f"{self.name}: not one frame came", hint="is the camera on?")

    def _read(self) -> None:
        """Keep the newest frame, until the end is asked for or the interpreter's has come."""
        try:
            while not self._end.is_set() and threading.main_thread().is_alive():
                is_read, frame = self._capture.read()
                if is_read:
                    self._keep(frame)
                else:
                    self._connect_again()
        except BaseException as error:  # the consumer must see every exception
            self._error = error
        finally:
            self._capture.release()
            with self._changed:
                self._end.set()
                self._changed.notify()

    def _keep(self, frame: Any) -> None:
        now_s = self._shown_s() if self._in_bursts else monotonic()
        if self._received == 0:
            self._first_s = now_s
        with self._changed:
            self._newest = (self._received, now_s - self._first_s, frame)
            self._received += 1
            self._changed.notify()

    def _shown_s(self) -> float:
        """Wait until the frame just read is to be shown: a playlist's come many at a time. Return the time then."""
        now_s = monotonic()
        position_s = self._capture.get(import_opencv().CAP_PROP_POS_MSEC) / 1000
        if abs(self._origin_s + position_s - now_s) > _LONGEST_PAUSE_S:  # the first, or the stream's clock was set
            self._origin_s = now_s - position_s
        self._end.wait(max(0.0, self._origin_s + position_s - now_s))
        return monotonic()

    def _connect_again(self) -> None:
        """Open the source anew and keep its first frame.

        Raises:
            ImageError: it stayed away.
        """
        self._capture.release()
        lost_s, pause_s, lost = monotonic(), _FIRST_PAUSE_S, f"{self.name}: lost after {self._received} frame(s)"
        if self._reconnect_s > 0:
            LOGGER.warning("frcnn: %s; connecting again, for up to %g s", printable(lost), self._reconnect_s)
        while (left_s := lost_s + self._reconnect_s - monotonic()) > 0 and threading.main_thread().is_alive():
            if self._end.wait(min(pause_s, left_s)):
                return
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            capture = _connect(self._source, self.name, self._max_pixels)
            is_read, frame = (False, None) if capture is None else capture.read()
            if is_read:
                LOGGER.warning("frcnn: %s: back after %.1f s", printable(self.name), monotonic() - lost_s)
                self._capture, self._origin_s = capture, -math.inf
                self._reconnected += 1
                self._keep(frame)
                return
            if capture is not None:
                capture.release()
        raise ImageError(
            f"{lost}, and not back within {self._reconnect_s:g} s (what came was used)",
            hint="--reconnect SECONDS waits longer, --duration SECONDS ends it before",
        )


def open_stream(
    source: str | int, *, reconnect_s: float = DEFAULT_RECONNECT_S, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Live | Video:
    """Open a camera by its number or a stream by its address; a ``Video`` where it states its length: a recording.

    Raises:
        ImageError: it cannot be opened.
        ImageSizeError: its frames have more than ``max_pixels`` pixels.
    """
    name = without_credentials(str(source))
    capture = _connect(source, name, max_pixels)
    if capture is None:
        raise _unavailable(source, name)
    count = capture.get(import_opencv().CAP_PROP_FRAME_COUNT)
    if isinstance(source, str) and 0 < count < math.inf:
        return Video(name=name, fps=stated_fps(capture), frame_count=int(count), _capture=capture)
    return Live(source, name, capture, reconnect_s=reconnect_s, max_pixels=max_pixels)


def frames(
    source: str | os.PathLike[str] | int,
    *,
    reconnect_s: float = DEFAULT_RECONNECT_S,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Generator[RGBImage]:
    """Yield the frames of a video file, a stream (rtsp, http, https) or a camera.

    A file's frames, and those of a stream that states its length, are all yielded. Of other streams and cameras a
    thread keeps the newest, so that a slow consumer is not late, and opens them again after a loss.

    Args:
        source: A path, an address, or a camera's number.
        reconnect_s: How long a lost stream or camera is waited for; 0 ends at the first loss.
        max_pixels: Larger frames are refused.

    Yields:
        8-bit RGB images; ``source`` is the path or address without its password, ``#`` and the frame's number.

    Raises:
        ImageError: It cannot be opened, is damaged, or was lost for good; the frames before were yielded.
        ImageSizeError: The frames have more than ``max_pixels`` pixels.

    Example:
        >>> for frame in frames("rtsp://camera.local/live"):
        ...     print(frame.source, len(detector([frame], score=0.5)[0]))
    """
    video: Live | Video
    if isinstance(source, int) or scheme_of(name := os.fspath(source)) in WEB_SCHEMES | STREAM_SCHEMES:
        at = source if isinstance(source, int) else name
        video = open_stream(at, reconnect_s=reconnect_s, max_pixels=max_pixels)
    else:
        video = open_video(Path(name), max_pixels=max_pixels)
    with closing(video.frames()) as images:
        yield from images
    video.require_whole()


def _connect(source: str | int, name: str, max_pixels: int) -> Any:
    """Return an opened capture, or None."""
    cv2 = import_opencv()
    backend, parameters = cv2.CAP_ANY, {}
    if isinstance(source, str):
        # more threads than one decode a frame each, and so are late by as many
        backend, parameters = cv2.CAP_FFMPEG, {**dict.fromkeys(_TIMEOUTS, _TIMEOUT_MS), "CAP_PROP_N_THREADS": 1}
    capture = open_capture(source, backend, parameters, options=_STREAM)
    if capture is not None:
        check_frame_size(capture, name, max_pixels)
    return capture


def _unavailable(source: str | int, name: str) -> ImageError:
    """Return the error of what cannot be opened. OpenCV tells no reason, so see whether anything is there."""
    if isinstance(source, int):
        there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        hint = f"is it connected, and free? cameras under /dev: {there}"
        return ImageError(f"{name}: OpenCV cannot open camera {source}", hint=hint)
    try:
        parts = urlsplit(source)
        address = (parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()])
        socket.create_connection(address, timeout=_TIMEOUT_MS / 1000).close()
    except (OSError, ValueError) as error:
        return ImageError(
            f"{name}: cannot be reached: {one_line(error)}", hint="is the address right, and the camera on?"
        )
    return ImageError(
        f"{name}: something is there, but no stream that OpenCV can play", hint="are the path and the password right?"
    )
