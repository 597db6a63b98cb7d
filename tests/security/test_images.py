"""Image files of others: bounded before they are decoded, whatever their EXIF says, and nothing is started."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.hostile.onnx_models import answering
from support.hostile.watch import memory_below, misdeeds

from frcnn.errors import ImageError, ImageSizeError
from frcnn.runtime import Detector, RGBImage
from frcnn.runtime.images.decode import decode_file, decode_image


@pytest.fixture
def detector(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(answering().SerializeToString())
    with Detector.load(path) as made:
        yield made


def chunk(name, data):
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(width, height, *chunks):
    header = chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def written(tmp_path, data, name="a.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def headers():
    """Images of 60,000 x 60,000, by format: some bytes say so."""
    small = Image.new("RGB", (7, 5))

    def saved(kind):
        buffer = io.BytesIO()
        small.save(buffer, kind)
        return bytearray(buffer.getvalue())

    bmp, gif, jpeg, tiff = saved("BMP"), saved("GIF"), saved("JPEG"), saved("TIFF")
    bmp[18:26] = struct.pack("<2l", 60_000, 60_000)
    gif[6:10] = struct.pack("<2H", 60_000, 60_000)
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">2H", 60_000, 60_000)
    for tag in (256, 257):
        at = tiff.index(struct.pack("<H", tag) + b"\x04\x00") + 8
        tiff[at : at + 4] = struct.pack("<L", 60_000)
    return {
        "PNG": png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(1 << 20)))),
        "BMP": bytes(bmp),
        "GIF": bytes(gif),
        "JPEG": bytes(jpeg),
        "TIFF": bytes(tiff),
        "PPM": b"P6 60000 60000 255\n",
    }


@pytest.mark.parametrize("kind", headers())
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path, kind):
    path = written(tmp_path, headers()[kind])
    message = "60000x60000 is 3,600,000,000 pixels, more than the limit of 178,9"
    with memory_below(8 << 20), pytest.raises(ImageSizeError, match=message):
        decode_file(path)


def test_the_limit_can_be_set(tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(ImageSizeError, match="100x100 is 10,000 pixels, more than the limit of 9,999"):
        decode_file(tmp_path / "a.png", max_pixels=9_999)
    assert decode_file(tmp_path / "a.png", max_pixels=10_000).shape == (100, 100, 3)


@pytest.mark.parametrize("size", [(1, 1), (30_000, 3), (3, 30_000), (1, 30_000)])
def test_images_of_odd_sizes_are_detected_in(tmp_path, size, detector):
    Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a.png")
    (found,) = detector([tmp_path / "a.png"])
    assert found.image_size == size[::-1]
    assert np.isfinite(found.boxes).all()


def test_text_in_a_png_that_unpacks_to_a_gigabyte_is_not_unpacked(tmp_path):
    bomb = b"Comment\0\0" + zlib.compress(bytes(1 << 26))
    data = png(2, 2, chunk(b"zTXt", bomb), chunk(b"IDAT", zlib.compress(bytes(14))))
    with memory_below(16 << 20), pytest.raises(ImageError, match="cannot be decoded"):
        decode_file(written(tmp_path, data))


TURNED = struct.pack("<2sHLH", b"II", 42, 8, 1)
EXIF = {
    "not of this world": b"\xff" * 200,
    "cut short": TURNED,
    "a loop": TURNED + struct.pack("<2HLL", 0x8769, 4, 1, 8) + struct.pack("<L", 8),
    "orientation 9": TURNED + struct.pack("<2HLL", 0x0112, 3, 1, 9) + bytes(4),
    "orientation 0": TURNED + struct.pack("<2HLL", 0x0112, 3, 1, 0) + bytes(4),
    "orientation as text": TURNED + struct.pack("<2HL", 0x0112, 2, 4) + b"six\0" + bytes(4),
    "a thousand million orientations": TURNED + struct.pack("<2HLL", 0x0112, 3, 10**9, 6) + bytes(4),
    "an offset beyond the end": struct.pack("<2sHL", b"II", 42, 0xFFFFFFF0),
}


@pytest.mark.parametrize("kind", EXIF)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_hostile_exif_leaves_the_image_as_it_is(tmp_path, kind, form):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    options = {"format": form, "quality": 100}
    image.save(tmp_path / "with", exif=b"Exif\0\0" + EXIF[kind], **options)
    image.save(tmp_path / "without", **options)
    np.testing.assert_array_equal(decode_file(tmp_path / "with"), decode_file(tmp_path / "without"))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch it-ran) (w) file\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.eps", "a.jpg", "a.png"])
def test_postscript_is_refused_and_starts_no_program(tmp_path, name):
    path = written(tmp_path, EPS, name)
    with misdeeds(tmp_path) as seen, pytest.raises(ImageError, match="not an image in a format that Pillow reads"):
        decode_file(path)
    assert seen == []


def test_warnings_of_pillow_on_a_damaged_file_are_not_printed(tmp_path, capfd):
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    at = data.index(struct.pack("<2H", 277, 3)) + 8
    data[at : at + 2] = struct.pack("<H", 2048)  # samples a pixel
    with pytest.raises(ImageError):
        decode_file(written(tmp_path, data, "a.tif"))
    assert capfd.readouterr() == ("", "")


class Broken(Image.Image):
    """An image whose reader has a fault of its own."""

    def convert(self, *_, **__):
        raise ZeroDivisionError("a fault")


def test_an_exception_of_a_decoder_is_an_image_error():
    broken = Broken()
    broken._mode, broken._size = "RGB", (2, 2)
    with pytest.raises(ImageError, match="it: the image cannot be decoded: a fault"):
        decode_image(broken, name="it")


FLOATS = np.full((48, 64, 3), 0.5, np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 255.0, -1.0])
@pytest.mark.parametrize("as_image", [False, True], ids=["array", "Image"])
def test_a_float_that_is_no_brightness_is_refused_wherever_it_is(value, as_image, detector):
    pixels = FLOATS.copy()
    pixels[30, 40, 1] = value
    given = RGBImage(pixels=pixels, name="it") if as_image else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    hint = "divide it by its white" if value == 255 else "not normalised by mean and std"
    with pytest.raises(ImageError, match=hint):
        detector([given])


@pytest.mark.parametrize("pixels", [FLOATS[0], FLOATS[:, :, :2], FLOATS[:0], FLOATS.astype(np.float64)])
def test_an_image_of_something_else_is_refused(pixels, detector):
    with pytest.raises(ImageError, match="got an RGBImage of"):
        detector([RGBImage(pixels=pixels, name="it")])
