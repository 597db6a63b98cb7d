"""Videos as browsers and screen recorders write them: of any frame times, and without a rate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_DEFAULT_DURATION = b"\x23\xe3\x83\x84"  # Matroska's element of a rate, and its size
_VOID = b"\xec\x86\x00\x00"
_TICKS_PER_S = 1000


def uneven_times(count: int, *, seed: int = 0) -> list[float]:
    """Return times in seconds and whole milliseconds, 16 to 100 ms apart, as a browser's recorder stamps frames."""
    steps = random.Random(seed).choices((0.016, 0.017, 0.02, 0.033, 0.034, 0.05, 0.1), k=count - 1)
    return [round(sum(steps[:index]), 3) for index in range(count)]


def record(
    path: Path,
    times_s: Sequence[float],
    *,
    codec: str = "libvpx",
    has_rate: bool = True,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video of 96 x 64 whose frame k is grey of level 4 k (mod 250), shown from ``times_s[k]`` on."""
    with av.open(path, "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        for index, time_s in enumerate(times_s):
            pixels = np.full((64, 96, 3), 4 * index % 250, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time_s * _TICKS_PER_S), Fraction(1, _TICKS_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if not has_rate:
        data = path.read_bytes()
        assert data.count(_DEFAULT_DURATION) == 1
        path.write_bytes(data.replace(_DEFAULT_DURATION, _VOID))
    return path


def shown(path: Path) -> tuple[list[float], float]:
    """Return when the frames of a video are shown and how long it lasts, in seconds, as FFmpeg reads it."""
    with av.open(path) as container:
        (stream,) = container.streams.video
        times = [float(frame.pts * stream.time_base) for frame in container.decode(stream)]
        assert stream.duration is not None and stream.frames == len(times)
        return times, float(stream.duration * stream.time_base)
