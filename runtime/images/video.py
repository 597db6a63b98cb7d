"""Read and write videos with OpenCV, without sound.

FFmpeg also plays lists of other files and network streams; here it opens one file of a video's format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ImageError, ImageSizeError, OutputError
from frcnn.runtime.dependencies import import_opencv
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.images.image import RGBImage

__all__ = ["VIDEO_SUFFIXES", "Video", "VideoWriter", "open_video", "writing_video"]

VIDEO_SUFFIXES: Final = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
_FALLBACK_FPS: Final = 25.0
_FFMPEG_QUIET: Final = "-8"
_FFMPEG_FORMATS: Final = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegvideo,mpegts,asf"
_IMAGES: Final = "CV_IMAGES"  # reads many files for a name with %d in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """An opened video; 25 ``fps`` if the file has none, ``frame_count`` None if its header has none."""

    path: Path
    fps: float
    frame_count: int | None
    _capture: Any

    def frames(self) -> Iterator[RGBImage]:
        """Yield the frames as 8-bit RGB images named ``clip.mp4#0`` and so on, and close the file."""
        cv2 = import_opencv()
        index = 0
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                name = f"{self.path}#{index}"
                yield RGBImage(pixels=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), name=name, source=name)
                index += 1
        finally:
            self._capture.release()


def open_video(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Video:
    """Open a video file."""
    cv2 = import_opencv()
    _silence(cv2)
    os.environ.setdefault(
        "OPENCV_FFMPEG_CAPTURE_OPTIONS", f"protocol_whitelist;file|format_whitelist;{_FFMPEG_FORMATS}"
    )
    if not path.is_file():
        raise ImageError(f"{path}: no such file" if not path.exists() else f"{path}: expected a video, got a folder")
    capture = cv2.VideoCapture(str(path))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if not capture.isOpened() or width <= 0 or capture.getBackendName() == _IMAGES:
        capture.release()
        raise ImageError(
            f"{path}: not a video that OpenCV can read",
            hint="it is damaged, incomplete, or in a format this OpenCV lacks; ffmpeg can turn most into .mp4",
        )
    if width * height > max_pixels:
        capture.release()
        raise ImageSizeError(
            f"{path}: frames of {height}x{width} are {width * height:,} pixels, more than the limit of {max_pixels:,}",
            hint="raise the limit (--max-pixels) if the file is to be trusted",
        )
    known_fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _FALLBACK_FPS
    return Video(path=path, fps=known_fps, frame_count=count if count > 0 else None, _capture=capture)


class VideoWriter:
    """Writes frames to an .mp4 file of the first frame's size."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._writer: Any = None
        self._count = 0

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a ``(H, W, 3)`` uint8 RGB frame; the codec takes even sizes: an odd last row or column is dropped."""
        cv2 = import_opencv()
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            _silence(cv2)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise OutputError(f"cannot write a {height}x{width} mp4v video to {self._path.parent}")
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(frame[:height, :width]), cv2.COLOR_RGB2BGR))
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def require_whole(self) -> None:
        """Check a finished file; OpenCV reports no failed write, such as on a full disk."""
        if self._writer is None:
            return
        cv2 = import_opencv()
        capture = cv2.VideoCapture(str(self._path))
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if there != self._count:
            raise OutputError(
                f"cannot write the video to {self._path.parent}: {there} of {self._count} frames arrived",
                hint="make room on the disk, or choose another folder with -o",
            )


@contextmanager
def writing_video(path: Path, fps: float) -> Iterator[VideoWriter]:
    """Yield a ``VideoWriter`` that is closed at the end of the block, and checked if the block succeeds."""
    writer = VideoWriter(path, fps)
    try:
        yield writer
    finally:
        writer.close()
    writer.require_whole()


def _silence(cv2: Any) -> None:
    """Keep OpenCV's and FFmpeg's own messages off standard error: our errors report the same on one line.

    FFmpeg reads its level from the environment when the first video is opened; a level the user set is kept.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
