"""Read and write videos with OpenCV, without sound.

FFmpeg also plays lists of other files and network streams; :func:`open_video` opens one file of a video's format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ImageError, ImageSizeError, OutputError, printable
from frcnn.files import missing_file, native_path
from frcnn.log import LOGGER
from frcnn.processors import available_cpus
from frcnn.runtime.dependencies import import_opencv
from frcnn.runtime.forks import fork_safe_lock
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.mp4_times import outer_boxes, set_frame_times

VIDEO_SUFFIXES: Final = frozenset(
    {".3g2", ".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)
_FALLBACK_FPS: Final = 25.0
_MADE_UP_FPS: Final = 1000
"""What OpenCV gives where a file has time stamps in milliseconds and no rate."""
_MP4: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
"""How an MP4 or MOV file begins, behind 4 bytes."""
_COUNTED: Final = _MP4 | {b"RIFF"}
_SEGMENT: Final = b"\x18\x53\x80\x67\x01"
"""How all but the header of a Matroska file begins; its size follows, in 7 bytes."""
_LOST_SHARE: Final = 0.02
"""Share of the frames that may be missing without a warning: headers are often a frame or two off."""
_FFMPEG_QUIET: Final = "-8"
_FFMPEG_FORMATS: Final = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegvideo,mpegts,asf"
_UNEVEN: Final = 0.1  # of a frame; times in thousandths of a second are off by less
_IMAGES: Final = "CV_IMAGES"  # reads many files for a name with %d in it
_FILE: Final = f"protocol_whitelist;file|format_whitelist;{_FFMPEG_FORMATS}"
_OPTIONS: Final = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_OPENING: Final = fork_safe_lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """An opened video.

    Attributes:
        name: its path or address.
        fps: the rate that its header gives, which need not be that of its frames; 25 if it gives none.
        frame_count: as an AVI, MP4 or MOV file stores it; None for others, where OpenCV derives it.
        bytes_cut_off: how many bytes are missing at the end of the file.
        times_s: when each frame is shown, of those read so far. A frame without a time follows by ``1 / fps``.
    """

    name: str
    fps: float
    frame_count: int | None = None
    bytes_cut_off: int = 0
    times_s: list[float] = field(default_factory=list)
    _capture: Any

    def frames(self) -> Generator[RGBImage]:
        """Yield the frames as 8-bit RGB images named ``clip.mp4#0`` and so on, and close the file."""
        cv2 = import_opencv()
        time_s = -1 / self.fps
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                time_s = stamp_s if time_s < stamp_s < math.inf else time_s + 1 / self.fps
                name = f"{self.name}#{len(self.times_s)}"
                self.times_s.append(time_s)
                yield RGBImage(pixels=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), name=name, source=name)
        finally:
            self._capture.release()

    def moment(self, index: int) -> tuple[int, float]:
        """Return the number of the frame that was yielded as the ``index``-th, and when it is shown, in seconds."""
        return index, self.times_s[index]

    def require_whole(self) -> None:
        """Check, after the last frame, that all bytes were there; warn if frames were not, which may be meant.

        A clip that was trimmed without being encoded again still has the frames that are not shown.
        """
        count, stored = len(self.times_s), self.frame_count or 0
        if count == 0:
            raise ImageError(f"{self.name}: not one frame of the video could be read", hint="the file is damaged")
        if self.bytes_cut_off:
            hint = f"{self.bytes_cut_off:,} bytes are missing at its end"
            raise ImageError(f"{self.name}: only {count} frames could be read (those were used)", hint=hint)
        if count < stored - max(2, stored * _LOST_SHARE):
            found = f"{count} of its {stored} frames were read: the others are empty, trimmed away or damaged"
            LOGGER.warning("frcnn: %s: %s", printable(self.name), found)


def open_video(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Video:
    """Open a video file."""
    cv2 = import_opencv()
    if not path.is_file():
        raise ImageError(f"{path}: expected a video, got a folder") if path.exists() else missing_file(path, ImageError)
    with native_path(path) as name:
        capture = open_capture(name, cv2.CAP_ANY, {"CAP_PROP_N_THREADS": available_cpus()}, options=_FILE)
    if capture is None:
        raise ImageError(
            f"{path}: not a video that OpenCV can read",
            hint="it is damaged, incomplete, or in a format this OpenCV lacks; ffmpeg can turn most into .mp4",
        )
    check_frame_size(capture, str(path), max_pixels)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    with path.open("rb") as file:
        cut_off = max(0, _promised_bytes(file) - path.stat().st_size)
        file.seek(0)
        is_counted = not _COUNTED.isdisjoint((file.read(4), file.read(4))) and 0 < count < math.inf
    return Video(
        name=str(path),
        fps=stated_fps(capture),
        frame_count=int(count) if is_counted else None,
        bytes_cut_off=cut_off,
        _capture=capture,
    )


def open_capture(source: str | int, backend: int, parameters: Mapping[str, int], *, options: str) -> Any:
    """Open what OpenCV reads frames from and return its capture; None where it cannot be opened.

    ``parameters`` are OpenCV's, by name, ``options`` FFmpeg's, which OpenCV takes from the environment; those that the
    user set there are kept.
    """
    cv2 = import_opencv()
    _silence(cv2)
    settings = [item for name, value in parameters.items() for item in (getattr(cv2, name), value)]
    with _OPENING:
        is_ours = _OPTIONS not in os.environ
        if is_ours:
            os.environ[_OPTIONS] = options
        try:
            capture = cv2.VideoCapture(source, backend, settings)
        finally:
            if is_ours:
                del os.environ[_OPTIONS]
    if capture.isOpened() and capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0 and capture.getBackendName() != _IMAGES:
        return capture
    capture.release()
    return None


def check_frame_size(capture: Any, name: str, max_pixels: int) -> None:
    """Close a capture whose frames have too many pixels, and raise ImageSizeError."""
    cv2 = import_opencv()
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels:
        capture.release()
        raise ImageSizeError(
            f"{name}: frames of {height}x{width} are {width * height:,} pixels, more than the limit of {max_pixels:,}",
            hint="raise the limit (--max-pixels) if the file is to be trusted",
        )


def stated_fps(capture: Any) -> float:
    """Return the rate that a video or stream states; 25 if it states none."""
    fps = float(capture.get(import_opencv().CAP_PROP_FPS))
    return fps if 0 < fps < _MADE_UP_FPS else _FALLBACK_FPS


class VideoWriter:
    """Writes frames to an .mp4 file of the first frame's size, to which others are resized."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._cv2 = import_opencv()
        self._writer: Any = None
        self._size = (0, 0)
        self._times_s: list[float] = []

    def write(self, frame: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Append a frame, ``(H, W, 3)`` uint8 RGB.

        The codec takes even sizes: an odd last row or column is dropped. ``time_s``, later than that of the frame
        before, is when it is shown; None: ``1 / fps`` after that one.
        """
        cv2 = self._cv2
        if self._writer is None:
            height, width = self._size = frame.shape[0] & ~1, frame.shape[1] & ~1
            _silence(cv2)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            with native_path(self._path) as name:
                self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise OutputError(f"cannot write a {height}x{width} mp4v video to {self._path.parent}")
        height, width = self._size
        if (frame.shape[0] & ~1, frame.shape[1] & ~1) != self._size:  # OpenCV would leave it out
            frame = cv2.resize(frame, (width, height))
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(frame[:height, :width]), cv2.COLOR_RGB2BGR))
        if time_s is None:
            time_s = self._times_s[-1] + 1 / self._fps if self._times_s else 0.0
        self._times_s.append(time_s)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def check_and_time(self) -> None:
        """Check a finished file, for OpenCV reports no failed write, such as on a full disk; show its frames in time.

        One rate is left as it is where it does that. The last frame lasts a mean step.
        """
        if self._writer is None:
            return
        cv2 = self._cv2
        with native_path(self._path) as name:
            capture = cv2.VideoCapture(name)
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if there != len(self._times_s):
            raise OutputError(
                f"cannot write the video to {self._path.parent}: {there} of {len(self._times_s)} frames arrived",
                hint="make room on the disk, or choose another folder with -o",
            )
        first, last, steps = self._times_s[0], self._times_s[-1], len(self._times_s) - 1
        times = [*self._times_s, last + ((last - first) / steps if steps else 1 / self._fps)]
        if any(abs(time - first - index / self._fps) > _UNEVEN / self._fps for index, time in enumerate(times)):
            set_frame_times(self._path, times)


@contextmanager
def writing_video(path: Path, fps: float) -> Iterator[VideoWriter]:
    """Yield a ``VideoWriter`` that is closed at the end of the block, and checked if the block succeeds."""
    writer = VideoWriter(path, fps)
    try:
        yield writer
    finally:
        writer.close()
    writer.check_and_time()


def _promised_bytes(file: BinaryIO) -> int:
    """Return the size of a file as an AVI, MP4 or Matroska file gives it; 0 if it gives none."""
    head = file.read(256)
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:8], "little")
        return 8 + size if size != 2**32 - 1 else 0  # of unknown size, here and below
    if head[4:8] in _MP4:
        file.seek(0)
        return max((end for kind, _, end in outer_boxes(file) if kind == b"mdat"), default=0)
    before, segment, rest = head.partition(_SEGMENT)
    size = int.from_bytes(rest[:7])
    return len(before) + len(segment) + 7 + size if segment and size != 2**56 - 1 else 0


def _silence(cv2: Any) -> None:
    """Keep OpenCV's and FFmpeg's own messages off standard error: our errors report the same on one line.

    FFmpeg reads its level from the environment when the first video is opened; a level the user set is kept.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
