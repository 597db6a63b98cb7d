"""Decode image files and PIL images to upright 8-bit RGB arrays.

Pillow reads the header first, so the size is checked before the pixels are decoded. Only the formats in ``FORMATS`` are
tried: Pillow knows others, one of which starts a program (EPS, Ghostscript). Less common kinds become RGB as follows:

- alpha (RGBA, LA, a transparent palette entry) is dropped, not blended;
- 16-bit grey is scaled by 255 / 65535 and rounded (Pillow's own conversion clips at 255);
- CMYK and the rest by Pillow, without colour profiles;
- of several pages or frames the first, with a warning.

HEIC needs the package pillow-heif.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from frcnn.errors import ImageError, ImageSizeError, MissingDependencyError, one_line, printable
from frcnn.files import missing_file
from frcnn.log import LOGGER
from frcnn.runtime.dependencies import import_pillow_heif
from frcnn.runtime.forks import fork_safe_lock
from frcnn.spec import Size

DEFAULT_MAX_PIXELS: Final = 178_956_970
"""Pillow's own limit for decompression bombs: 1 GiB of RGB values / 3, twice over."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
"""The formats that are read, by Pillow's names."""

_HEIC: Final = (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
"""How a file of it begins, behind 4 bytes; the last two are AVIF's, too."""
_BEGINS: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|....ftyp(?:avi[fs]|he[iv][cxms]|mif1|msf1)|II\*\0|MM\0\*|BM.{4}\0{4}|GIF8[79]a|"
    rb"P[1-6]\s+[#\d]",
    re.DOTALL,
)
"""How the files of these formats begin, and HEIC; text does not, but for PPM's."""
_ORIENTATION: Final = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
TRANSPOSED: Final = (5, 6, 7, 8)  # 5 transposed, 6 turned right, 7 transversed, 8 turned left
_ROWS_REVERSED: Final = (3, 4, 7, 8)
_COLUMNS_REVERSED: Final = (2, 3, 6, 7)

Box = tuple[float, float, float, float]

_BOMB_LIMIT: Final = fork_safe_lock()  # a stream's thread may hold it

logging.getLogger("PIL").addHandler(logging.NullHandler())  # our errors report what it logs of damaged files


def decode_file(
    file: Path | BytesIO, *, name: str | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read an image file, by its path or its content, turned upright by its EXIF orientation.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    name = name or str(file)
    with _open(file, name) as image:
        _check_size(image, name, max_pixels)
        pixels = _upright(_rgb(image, name), _orientation(image))
        _warn_of_more(image, name)
        return pixels


def decode_image(image: Image.Image, *, name: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Convert a PIL image as it stands.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    _check_size(image, name, max_pixels)
    try:
        image.load()
    except Exception as error:  # Pillow may raise anything on a damaged or hostile file
        if getattr(getattr(image, "fp", None), "closed", True):
            raise ImageError(
                f"{name}: the PIL image is closed", hint="hand in a copy, made while it was open"
            ) from error
        raise _damaged(name, error) from error
    return _rgb(image, name)


def is_image(head: bytes) -> bool:
    """Return whether a file that begins so is an image, as far as 16 bytes can tell."""
    return _BEGINS.match(head) is not None


def read_orientation(path: Path) -> tuple[int, Size]:
    """Return a file's EXIF orientation, 1 (upright) to 8, and the (height, width) of the pixels that it stores."""
    with _open(path, str(path)) as image:
        _check_size(image, str(path), DEFAULT_MAX_PIXELS)
        tags = getattr(image, "tag_v2", {})  # of a TIFF, whose size Pillow turns
        return _orientation(image), (tags.get(_TIFF_HEIGHT, image.height), tags.get(_TIFF_WIDTH, image.width))


def upright_box(box: Box, orientation: int, stored: Size) -> Box:
    """Turn and mirror x, y, width, height as a file's pixels are, which are ``stored`` as (height, width)."""
    x, y, width, height = box
    frame_height, frame_width = stored
    if orientation in TRANSPOSED:
        x, y, width, height, frame_height, frame_width = y, x, height, width, frame_width, frame_height
    if orientation in _ROWS_REVERSED:
        y = frame_height - y - height
    if orientation in _COLUMNS_REVERSED:
        x = frame_width - x - width
    return x, y, width, height


def _open(file: Path | BytesIO, name: str) -> Image.Image:
    """Read an image's header."""
    if isinstance(file, Path) and file.is_dir():
        raise ImageError(f"{name}: expected an image, got a folder")
    try:
        try:
            return _opened(file, FORMATS)
        except UnidentifiedImageError:
            if _head(file)[4:] not in _HEIC:
                raise
            import_pillow_heif().register_heif_opener()
            return _opened(file, ("HEIF",))
    except UnidentifiedImageError as error:
        what = "not an image in a format that Pillow reads" if _head(file) else "the file is empty"
        raise ImageError(f"{name}: {what}", hint=f"{', '.join(FORMATS)} are read") from error
    except MissingDependencyError as error:
        raise ImageError(f"{name}: {error.message}", hint=error.hint) from error
    except FileNotFoundError as error:
        raise missing_file(name, ImageError) from error
    except Exception as error:  # Pillow may raise anything on a damaged or hostile file
        raise _damaged(name, error) from error


def _head(file: Path | BytesIO) -> bytes:
    if isinstance(file, BytesIO):
        return bytes(file.getbuffer()[:12])
    if not file.is_file():  # a pipe was read to its end
        return b""
    with file.open("rb") as content:
        return content.read(12)


def _opened(file: Path | BytesIO, formats: tuple[str, ...]) -> Image.Image:
    """Read a header without Pillow's own pixel limit, a global: ours is an option, checked right after."""
    with _BOMB_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _warn_of_more(image: Image.Image, name: str) -> None:
    with suppress(Exception):  # Pillow may raise anything on a damaged or hostile file; what is read of it is fine
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":  # a JPEG that brings previews
            LOGGER.warning("frcnn: %s: only the first of %d pages or frames is read", printable(name), count)


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageSizeError(
            f"{name}: {height}x{width} is {width * height:,} pixels, more than the limit of {max_pixels:,}",
            hint="raise the limit (max_pixels, --max-pixels) if the file is to be trusted",
        )
    if width * height == 0:
        raise ImageSizeError(f"{name}: {height}x{width} has no pixels")


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(
        f"{name}: the image cannot be decoded: {one_line(error)}", hint="the file is damaged or incomplete"
    )


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _deep_grey(np.asarray(image), name)
        if image.mode == "P":  # through RGBA: Pillow warns about transparent entries otherwise
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except ImageError:
        raise
    except Exception as error:  # Pillow may raise anything on a damaged or hostile file
        raise _damaged(name, error) from error


def _deep_grey(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Accept integers up to 65535: 16 bits, or 32 as Pillow gives for PGM and old PNG files."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: expected 8 or 16 bits a channel, got {values.dtype} values from {values.min()} to {values.max()}",
            hint="convert it to 8 bits; how to scale such values is not for frcnn to guess",
        )
    grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow may raise anything on a damaged or hostile file
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror ``(H, W, 3)`` pixels by an EXIF orientation."""
    if orientation in TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in _ROWS_REVERSED:
        pixels = pixels[::-1]
    if orientation in _COLUMNS_REVERSED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
