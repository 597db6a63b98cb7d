"""Detections for people: drawn on their image, in a file, and in a notebook."""

from __future__ import annotations

import base64
from contextlib import suppress
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frcnn.errors import ImageSizeError, UsageError
from frcnn.files import replacing
from frcnn.runtime.detections import Detections
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.images.image import ChannelOrder, as_image, checked_channel_order
from frcnn.runtime.results.draw import annotate

_FORMATS: Final = {".png": "PNG", ".webp": "WEBP", **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG")}
_OPTIONS: Final[dict[str, Any]] = {"quality": 95, "subsampling": 0}  # of JPEG; other formats take what they know
_LONGEST_SIDE_PX: Final = 960  # in a notebook, which keeps the image in its file
_MAX_ROWS: Final = 25
_COLUMNS: Final = ("", "class", "score", "x1", "y1", "x2", "y2")


def draw_on(
    detections: Detections, image: object | None = None, channel_order: ChannelOrder = "rgb"
) -> NDArray[np.uint8]:
    """Return an image, or that of the detections' file, with the detections on it: ``(f * H, f * W, 3)`` uint8 RGB."""
    if image is None:
        image = detections.source
        if image is None or not Path(image).is_file():
            where = "their image came from no file" if image is None else f"{image} is no file here"
            raise UsageError(f"the detections cannot be drawn: {where}", hint="hand in the image: draw(image)")
    height, width = detections.image_size
    decoded = as_image(
        image,
        name="image",
        max_pixels=max(DEFAULT_MAX_PIXELS, height * width),
        channel_order=checked_channel_order(channel_order),
    )
    if decoded.size != (height, width):
        got = "x".join(map(str, decoded.size))
        raise ImageSizeError(
            f"{decoded.name}: expected an image of {height}x{width} (height x width), got {got}",
            hint="boxes are in pixels of the image that they were detected in: hand in that one",
        )
    return annotate(decoded.uint8(), detections)


def image_format(path: Path) -> str:
    """Return Pillow's name of the format of an image file to be written, by its suffix."""
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_FORMATS)
        raise UsageError(f"{path}: expected a name that ends in one of {known}, got {path.suffix!r}") from None


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a whole image file, or none; ``pixels`` are ``(H, W, 3)`` uint8 RGB."""
    file_format = image_format(path)
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=file_format, **_OPTIONS)


def jpeg_base64(pixels: NDArray[np.uint8], *, longest_side_px: int, quality: int) -> tuple[str, tuple[int, int]]:
    """Return an image ``(H, W, 3)`` uint8 RGB, scaled down where a side is longer, as a JPEG, and its width, height."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_side_px, longest_side_px))
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode(), image.size


def as_html(detections: Detections) -> str:
    """Return the objects as a table, under their image where its file is there, as HTML for a notebook."""
    height, width = detections.image_size
    title = f"{len(detections)} object{'' if len(detections) == 1 else 's'} in {width} x {height} pixels"
    if detections.source is not None:
        title += f" of {detections.source}"
    picture = ""
    with suppress(Exception):  # a display shows what there is
        jpeg, _ = jpeg_base64(draw_on(detections), longest_side_px=_LONGEST_SIDE_PX, quality=90)
        picture = f'<img src="data:image/jpeg;base64,{jpeg}" alt="{escape(title)}">'
    rows = [
        (number, one.class_name, f"{one.score:.3f}", *(f"{side:.1f}" for side in one.box))
        for number, one in enumerate(detections[:_MAX_ROWS])
    ]
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    more = "" if len(detections) <= _MAX_ROWS else f"<p>and {len(detections) - _MAX_ROWS} more</p>"
    table = f"<table><thead><tr>{_cells('th', _COLUMNS)}</tr></thead><tbody>{body}</tbody></table>{more}"
    return f"<div><p>{escape(title)}</p>{picture}{table if rows else ''}</div>"


def _cells(tag: str, texts: tuple[object, ...]) -> str:
    return "".join(f"<{tag}>{escape(str(text))}</{tag}>" for text in texts)
