"""Set when the frames of an .mp4 file are shown, which OpenCV writes at one rate only.

The frames stay as they are; the tables that give their times (ISO/IEC 14496-12) are written anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO, Final

_TICKS_PER_S: Final = 90_000
_LONGEST_STEP: Final = 2**32 - 1
_LARGEST_FILE: Final = 2**63
_WIDE: Final = 1 << 24  # version 1 of a box: 64-bit times
_SHOWN: Final = 3  # flags of a track: enabled, in the presentation
_TAILS: Final = {b"mvhd": 80, b"mdhd": 4, b"tkhd": 60}
"""Bytes of a header behind its times."""


def set_frame_times(path: Path, times_s: Sequence[float]) -> None:
    """Show each frame from its time on.

    Args:
        path: a file of one track with its tables behind the frames, as FFmpeg writes it.
        times_s: of all frames, rising, and the end of the last.
    """
    ticks = [round(time * _TICKS_PER_S) for time in times_s]
    steps = [min(max(later - earlier, 1), _LONGEST_STEP) for earlier, later in pairwise(ticks)]
    with path.open("r+b") as file:
        start = next(start for kind, start, _ in outer_boxes(file) if kind == b"moov")
        file.seek(start)
        tables = _rewritten(file.read(), steps)
        file.seek(start)
        file.write(tables)


def outer_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each outer box, where it begins and where it ends, which may be behind the end of the file."""
    end = 0
    while len(head := file.read(16)) == 16:
        size, kind, wide = struct.unpack(">I4sQ", head)
        start, end = end, end + (wide if size == 1 else size)
        yield kind, start, end
        if not start < end < _LARGEST_FILE:  # the last one, which has no size
            return
        file.seek(end)


def _rewritten(boxes: bytes, steps: Sequence[int]) -> bytes:
    parts, start = [], 0
    while start < len(boxes):
        size, kind = struct.unpack_from(">I4s", boxes, start)
        content, start = boxes[start + 8 : start + size], start + size
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            content = _rewritten(content, steps)
        elif kind == b"stts":
            runs = [(len(list(run)), step) for step, run in groupby(steps)]
            content = struct.pack(f">II{2 * len(runs)}I", 0, len(runs), *(number for run in runs for number in run))
        elif kind == b"tkhd":
            content = struct.pack(">IQQIIQ", _WIDE | _SHOWN, 0, 0, 1, 0, sum(steps)) + content[-_TAILS[kind] :]
        elif kind in _TAILS:
            content = struct.pack(">IQQIQ", _WIDE, 0, 0, _TICKS_PER_S, sum(steps)) + content[-_TAILS[kind] :]
        if kind != b"edts":  # of the old times; without it all is shown
            parts.append(struct.pack(">I4s", 8 + len(content), kind) + content)
    return b"".join(parts)
