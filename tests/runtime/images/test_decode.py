"""frcnn.runtime.images.decode: every kind of image becomes upright 8-bit RGB, or one clear error."""

from __future__ import annotations

import io
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from frcnn.errors import ImageError, ImageSizeError
from frcnn.runtime.images.decode import decode_file, decode_image, read_orientation, upright_box


def ramp(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_is_exact(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(ramp()))
    np.testing.assert_array_equal(decode_file(path), ramp())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(ramp())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", image, exif=exif)
    with Image.open(path) as reference:
        expected = np.asarray(ImageOps.exif_transpose(reference))
    np.testing.assert_array_equal(decode_file(path), expected)
    if orientation != 1:
        assert not np.array_equal(expected, ramp())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_as_the_pixels_do(tmp_path: Path, orientation: int, suffix: str) -> None:
    box, stored = (3, 5, 16, 8), (40, 64)
    pixels = np.zeros((*stored, 3), np.uint8)
    pixels[5:13, 3:19] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels), exif=exif)
    assert read_orientation(path) == (orientation, stored)
    x, y, width, height = map(int, upright_box(box, orientation, stored))
    upright = decode_file(path)[..., 0] > 127
    assert upright[y : y + height, x : x + width].mean() > 0.95
    upright[y : y + height, x : x + width] = False
    assert upright.sum() < 10


def test_a_pil_image_is_taken_as_it_stands(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", Image.fromarray(ramp()), exif=exif)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode_image(image, name="it"), ramp())


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(ramp()).convert(mode)
    pixels = decode_image(image, name="it")
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_blended() -> None:
    clear = np.dstack([ramp(), np.zeros((20, 30), np.uint8)])
    np.testing.assert_array_equal(decode_image(Image.fromarray(clear, "RGBA"), name="it"), ramp())


def test_a_palette_with_transparency_decodes_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(ramp()).quantize(16)
    path = saved(tmp_path / "a.png", image, transparency=bytes(range(0, 160, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_file(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    pixels = decode_file(saved(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[:, :, 0], np.floor(values / 257 + 0.5).astype(np.uint8))
    assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_values_without_a_known_scale_are_refused() -> None:
    for image in (
        Image.fromarray(np.full((2, 2), 0.5, np.float32)),
        Image.fromarray(np.full((2, 2), 70_000, np.int32)),
    ):
        with pytest.raises(ImageError, match="it: expected 8 or 16 bits"):
            decode_image(image, name="it")


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (50, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decode_file(tmp_path / "a.gif") == 50).all()


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png", "avif"])
def test_further_pages_and_frames_are_said(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    decode_file(saved(tmp_path / f"one.{suffix}", first))
    assert not caplog.messages
    path = saved(tmp_path / f"two.{suffix}", first, save_all=True, append_images=[second])
    assert decode_file(path).min() > 250
    assert caplog.messages == [f"frcnn: {path}: only the first of 2 pages or frames is read"]


def test_previews_in_a_jpeg_are_no_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As telephones write them: one photograph, and a smaller one of it."""
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (8, 8), "white")
    path = saved(tmp_path / "a.jpg", first, format="MPO", save_all=True, append_images=[second])
    assert decode_file(path).shape == (16, 16, 3)
    assert not caplog.messages


def test_heic_names_the_extra_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its content: telephones send it as .jpg, too."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match=r"a\.jpg: reading HEIC images needs the package 'pillow-heif'") as raised:
        decode_file(path)
    assert raised.value.hint == "pip install 'frcnn[heif]'"


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_heic_is_read_upright(tmp_path: Path, orientation: int) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :32] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    path = saved(tmp_path / "a.heic", image)
    turns = {1: 0, 6: 3, 8: 1}[orientation]
    assert np.abs(decode_file(path).astype(int) - np.rot90(pixels, turns)).mean() < 3


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramp(200, 200)).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-3000])
    with pytest.raises(ImageError, match=r"cut\.jpg: the image cannot be decoded: .*truncated"):
        decode_file(tmp_path / "cut.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says more about damaged TIFF files
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "gif", "bmp", "jpg"])
def test_no_damage_escapes_as_another_error(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramp(64, 64)).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    whole = buffer.getvalue()
    path = tmp_path / f"cut.{suffix}"
    messages = []
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))])
        damaged[int(rng.integers(0, len(damaged)))] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert decode_file(path).dtype == np.uint8
        except ImageError as error:
            messages.append(error.message)
    assert len(messages) > 10
    assert all(str(path) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"not an image at all", "not an image"), (None, "no such file")],
)
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as raised:
        decode_file(path)
    assert str(path) in raised.value.message


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="got a folder"):
        decode_file(tmp_path)


def test_the_pixel_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(ramp(100, 100)))
    path.write_bytes(path.read_bytes()[:100])  # the header is there, the pixels are not
    with pytest.raises(ImageSizeError, match="100x100 is 10,000 pixels, more than the limit of 9,999"):
        decode_file(path, max_pixels=9_999)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_file(path, max_pixels=10_000)


def test_pillows_own_limit_neither_warns_nor_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(ramp(100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    threads = [threading.Thread(target=decode_file, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decode_file(path).shape == (100, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
