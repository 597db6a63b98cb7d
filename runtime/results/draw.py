"""Draw detections on an image, readable at every size.

Line width and text size follow the image's size; an image too small for text is enlarged by a whole factor. Each class
has a colour of the Okabe-Ito palette, which colour-blind people can tell apart. Outlines have dark edges; names are on
plates of the class's colour, in black or white, whichever contrasts more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from frcnn.runtime.detections import Detections

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the drawing, the last two exclusive."""

PALETTE: Final[tuple[Colour, ...]] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
_EDGE: Final[Colour] = (20, 20, 20)
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
    text: str
    colour: Colour


def class_colour(label: int) -> Colour:
    """Return the (red, green, blue) colour of a class."""
    return PALETTE[(label - 1) % len(PALETTE)]


def annotate(
    pixels: NDArray[np.uint8], detections: Detections, *, colours: Sequence[Colour] | None = None
) -> NDArray[np.uint8]:
    """Return an image with boxes, names and scores.

    The best scores are drawn last, on top. Plates are placed from the best score to the worst, each where it covers no
    better one if there is such a place.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB; not changed.
        detections: in pixels of that image.
        colours: one per detection; None: their classes' colours.

    Returns:
        ``(f * H, f * W, 3)`` uint8 RGB; f is the smallest whole number that makes the long side 320 pixels or more.
    """
    height, width = pixels.shape[:2]
    factor = max(1, math.ceil(_READABLE_SIDE_PX / max(height, width)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if factor > 1:
        image = image.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    style = _Style.for_size(image.width, image.height)
    objects = [
        _object(detections, index, factor, image.size, None if colours is None else colours[index])
        for index in range(len(detections))
    ]
    canvas = ImageDraw.Draw(image)
    for item in reversed(objects):
        _draw_box(canvas, item, style)
    for item, plate in reversed(_placed(objects, style, image.size)):
        _draw_plate(canvas, item, plate, style)
    return np.array(image)  # np.asarray's would be read-only


def _object(
    detections: Detections, index: int, factor: int, frame: tuple[int, int], colour: Colour | None = None
) -> _Object:
    width, height = frame
    corners = np.nan_to_num(detections.boxes[index].astype(np.float64) * factor)
    x1, y1, x2, y2 = (round(float(side)) for side in np.clip(corners, 0, [width, height, width, height]))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return _Object(
        box=(x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)),
        text=f"{detections.class_names[index]} {detections.scores[index]:.2f}",
        colour=class_colour(int(detections.labels[index])) if colour is None else colour,
    )


def _draw_box(canvas: ImageDraw.ImageDraw, item: _Object, style: _Style) -> None:
    """Draw an outline inside the box: a coloured line between two dark edges."""
    x1, y1, x2, y2 = item.box
    room = min(x2 - x1, y2 - y1) // 2
    edge = style.edge_px if room > style.line_px + 2 * style.edge_px else 0
    line = max(1, min(style.line_px, room))
    if edge:
        canvas.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_EDGE, width=line + 2 * edge)
    inner = (x1 + edge, y1 + edge, x2 - 1 - edge, y2 - 1 - edge)
    canvas.rectangle(inner, outline=item.colour, width=line)


def _draw_plate(canvas: ImageDraw.ImageDraw, item: _Object, plate: Rectangle, style: _Style) -> None:
    x1, y1, x2, y2 = plate
    canvas.rectangle((x1, y1, x2 - 1, y2 - 1), fill=item.colour, outline=_EDGE, width=style.edge_px)
    ascent, _ = _font(style.font_px).getmetrics()
    baseline = y1 + style.padding_px + ascent
    colour = _text_colour(item.colour)
    canvas.text((x1 + style.padding_px, baseline), item.text, font=_font(style.font_px), fill=colour, anchor="ls")


def _placed(objects: list[_Object], style: _Style, frame: tuple[int, int]) -> list[tuple[_Object, Rectangle]]:
    """Place the plates where they cover least; a plate that is higher than the frame is left out.

    Covered plates count fully, covered small boxes a quarter.
    """
    placed: list[tuple[_Object, Rectangle]] = []
    for item in objects:
        width, height = _plate_size(item.text, style)
        if height > frame[1]:
            continue
        places = [_inside(x, y, width, height, frame) for x, y in _candidates(item.box, width, height)]
        plates = [plate for _, plate in placed]
        small = [other.box for other in objects if _overlap(other.box, other.box) < _SMALL_PLATES * width * height]
        costs = [
            sum(_overlap(place, plate) for plate in plates) + sum(_overlap(place, box) for box in small) / 4
            for place in places
        ]
        placed.append((item, places[costs.index(min(costs))]))
    return placed


def _plate_size(text: str, style: _Style) -> tuple[int, int]:
    ascent, descent = _font(style.font_px).getmetrics()
    width = math.ceil(_font(style.font_px).getlength(text))
    return width + 2 * style.padding_px, ascent + descent + 2 * style.padding_px


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


def _overlap(one: Rectangle, other: Rectangle) -> int:
    """Return the area in square pixels that two rectangles share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _text_colour(background: Colour) -> Colour:
    """Return black or white, whichever has the higher WCAG contrast to a colour."""
    linear = [channel / 3294.6 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4 for channel in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if luminance > 0.179 else _WHITE


@lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType and its font
    return font
