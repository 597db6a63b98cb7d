"""Draw detections on an image, readable at every size.

Line width and text size follow the image's size; an image too small for text is enlarged by a whole factor. Each class
has its colour. Edges of outlines, and names on plates of that colour, are black or white, whichever contrasts more: a
box is seen on bright and dark images, and its name read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from frcnn.runtime.detections import Detections
from frcnn.runtime.results.fonts import Run, checked_font, font_of, label_runs

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the drawing, the last two exclusive."""

_COLOURS: Final = """
    e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 555500 771199 aa0033 bbffdd ffccbb 005555 ddccff 889922
    8866ff 773300 00ee44 ff4455 555577 00cccc 007711 bbbb99 997733 8888aa cc0088 996666 ff00ff bbeeff 0044dd
"""
PALETTE: Final[tuple[Colour, ...]] = tuple((*bytes.fromhex(colour),) for colour in _COLOURS.split())
"""The seven of Okabe and Ito, which colour-blind people can tell apart, and those that are farthest from the others."""

_BLACK: Final[Colour] = (0, 0, 0)
_WHITE: Final[Colour] = (255, 255, 255)
_READABLE_SIDE_PX: Final = 320
_MIN_FONT_PX: Final = 12
_FONT_SHARE: Final = 0.021
_LINE_SHARE: Final = 0.003
_SMALL_PLATES: Final = 3
"""A box smaller than so many plates is small: a plate on it would hide the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """Sizes in pixels of the drawing."""

    line_px: int
    edge_px: int
    font_px: int
    padding_px: int

    @classmethod
    def for_size(cls, width: int, height: int) -> _Style:
        side = math.sqrt(width * height)
        line = max(2, round(side * _LINE_SHARE))
        font = max(_MIN_FONT_PX, round(side * _FONT_SHARE))
        return cls(line_px=line, edge_px=max(1, line // 4), font_px=font, padding_px=max(2, font // 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    """One detection in pixels of the drawing."""

    box: Rectangle
    runs: tuple[Run, ...]
    colour: Colour


def class_colour(label: int) -> Colour:
    """Return the (red, green, blue) colour of a class; the 31st has that of the first."""
    return PALETTE[(label - 1) % len(PALETTE)]


def annotate(
    pixels: NDArray[np.uint8],
    detections: Detections,
    *,
    colours: Sequence[Colour] | None = None,
    font: str | os.PathLike[str] | None = None,
) -> NDArray[np.uint8]:
    """Return an image with boxes, names and scores.

    The best scores are drawn last, on top. Plates are placed from the best score to the worst, each where it covers no
    better one if there is such a place. Names are drawn in Pillow's own font, what it lacks in a font of this system; a
    name that no font has is drawn as ``#`` and its label, after a warning.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB; not changed.
        detections: in pixels of that image.
        colours: one per detection; None: their classes' colours.
        font: a TrueType or OpenType file for all that it has letters for.

    Returns:
        ``(f * H, f * W, 3)`` uint8 RGB; f is the smallest whole number that makes the long side 320 pixels or more.

    Raises:
        UsageError: the font cannot be read.
    """
    file = None if font is None else checked_font(font)
    height, width = pixels.shape[:2]
    factor = max(1, math.ceil(_READABLE_SIDE_PX / max(height, width)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if factor > 1:
        image = image.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    style = _Style.for_size(image.width, image.height)
    objects = _objects(detections, factor, image.size, colours, file)
    canvas = ImageDraw.Draw(image)
    for item in reversed(objects):
        _draw_box(canvas, item, style)
    for item, plate in reversed(_placed(objects, style, image.size)):
        _draw_plate(canvas, item, plate, style)
    return np.array(image)  # np.asarray's would be read-only


def _objects(
    detections: Detections, factor: int, frame: tuple[int, int], colours: Sequence[Colour] | None, font: str | None
) -> list[_Object]:
    corners = np.nan_to_num(detections.boxes.astype(np.float64) * factor)
    x1, y1, x2, y2 = np.clip(corners, 0, [*frame, *frame]).round().astype(int).T
    x1, y1 = np.minimum(x1, frame[0] - 1), np.minimum(y1, frame[1] - 1)
    boxes = np.stack([x1, y1, np.maximum(x2, x1 + 1), np.maximum(y2, y1 + 1)], axis=1).tolist()
    labels, names = detections.labels.tolist(), detections.class_names
    colours = [class_colour(label) for label in labels] if colours is None else colours
    return [
        _Object(box=tuple(box), runs=label_runs(name, f"{score:.2f}", label, font), colour=colour)
        for box, name, score, label, colour in zip(boxes, names, detections.scores, labels, colours, strict=True)
    ]


def _draw_box(canvas: ImageDraw.ImageDraw, item: _Object, style: _Style) -> None:
    """Draw an outline inside the box: a coloured line between two edges."""
    x1, y1, x2, y2 = item.box
    room = min(x2 - x1, y2 - y1) // 2
    edge = style.edge_px if room > style.line_px + 2 * style.edge_px else 0
    line = max(1, min(style.line_px, room))
    if edge:
        canvas.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_contrasting(item.colour), width=line + 2 * edge)
    inner = (x1 + edge, y1 + edge, x2 - 1 - edge, y2 - 1 - edge)
    canvas.rectangle(inner, outline=item.colour, width=line)


def _draw_plate(canvas: ImageDraw.ImageDraw, item: _Object, plate: Rectangle, style: _Style) -> None:
    x1, y1, x2, y2 = plate
    canvas.rectangle((x1, y1, x2 - 1, y2 - 1), fill=item.colour, outline=_contrasting(item.colour), width=style.edge_px)
    lengths, ascent, _ = _extent(item.runs, style.font_px)
    x, baseline, colour = float(x1 + style.padding_px), y1 + style.padding_px + ascent, _contrasting(item.colour)
    for (text, file), length in zip(item.runs, lengths, strict=True):
        canvas.text((x, baseline), text, font=font_of(file, style.font_px), fill=colour, anchor="ls")
        x += length


def _placed(objects: list[_Object], style: _Style, frame: tuple[int, int]) -> list[tuple[_Object, Rectangle]]:
    """Place the plates where they cover least; a plate that is higher than the frame is left out.

    Covered plates count fully, covered small boxes a quarter.
    """
    placed: list[tuple[_Object, Rectangle]] = []
    boxes = np.array([item.box for item in objects]).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for item in objects:
        lengths, ascent, descent = _extent(item.runs, style.font_px)
        width, height = (2 * style.padding_px + side for side in (math.ceil(sum(lengths)), ascent + descent))
        if height > frame[1]:
            continue
        places = [_inside(x, y, width, height, frame) for x, y in _candidates(item.box, width, height)]
        small = boxes[areas < _SMALL_PLATES * width * height]
        costs = _overlap(places, [plate for _, plate in placed]) + _overlap(places, small) / 4
        placed.append((item, places[int(costs.argmin())]))
    return placed


@lru_cache(maxsize=4096)
def _extent(runs: tuple[Run, ...], font_px: int) -> tuple[tuple[float, ...], int, int]:
    """Return the length of each run, and how far they reach above and below the baseline."""
    ascent, descent = font_of(None, font_px).getmetrics()
    for text, file in runs:
        if file is not None:
            _, top, _, bottom = map(round, font_of(file, font_px).getbbox(text, anchor="ls"))
            ascent, descent = max(ascent, -top), max(descent, bottom)
    return tuple(font_of(file, font_px).getlength(text) for text, file in runs), ascent, descent


def _candidates(box: Rectangle, width: int, height: int) -> list[tuple[int, int]]:
    """Return places of a plate's upper left corner, best first: above the box, inside it, below it, beside it."""
    x1, y1, x2, y2 = box
    return [
        (x1, y1 - height),
        (x1, y1),
        (x1, y2),
        (x1, y2 - height),
        (x2 - width, y1 - height),
        (x2 - width, y2),
        (x2, y1),
        (x1 - width, y1),
    ]


def _inside(x: int, y: int, width: int, height: int, frame: tuple[int, int]) -> Rectangle:
    """Return the plate, moved into the frame; a wider one begins at the frame's left edge."""
    x = max(0, min(x, frame[0] - width))
    y = max(0, min(y, frame[1] - height))
    return x, y, x + width, y + height


def _overlap(places: ArrayLike, others: ArrayLike) -> NDArray[np.int64]:
    """Return the area in square pixels that each of some rectangles shares with others, summed over these."""
    one, other = np.reshape(places, (-1, 1, 4)), np.reshape(others, (1, -1, 4)).astype(int)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    return np.asarray(sides.clip(0).prod(axis=2).sum(axis=1), np.int64)


def _contrasting(background: Colour) -> Colour:
    """Return black or white, whichever has the higher WCAG contrast to a colour."""
    linear = [channel / 3294.6 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4 for channel in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if luminance > 0.179 else _WHITE
