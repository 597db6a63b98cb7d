"""frcnn.runtime.results.display: what Detections.draw, .save and a notebook show."""

from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from frcnn.errors import ImageError, ImageSizeError, OutputError, UsageError
from frcnn.runtime import Detections, RGBImage, annotate

HEIGHT, WIDTH = 330, 400
PIXELS = np.mgrid[:HEIGHT, :WIDTH, 0:90:30].sum(0).clip(0, 255).astype(np.uint8)


def make(source: Path | str | None = None, *, count: int = 2, names: tuple[str, ...] | None = None) -> Detections:
    return Detections(
        boxes=np.array([[20, 50, 200, 300], [220, 60, 390, 320]], np.float32)[np.arange(count) % 2],
        scores=np.linspace(0.9, 0.5, count),
        labels=np.arange(count) % 2 + 1,
        image_size=(HEIGHT, WIDTH),
        source=None if source is None else str(source),
        label_names=names or ("__background__", "cat", "dog"),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    return path


EXPECTED = annotate(PIXELS, make())


def test_every_kind_of_image_is_drawn_on(file: Path) -> None:
    kinds: list[Any] = [
        file,
        str(file),
        file.read_bytes(),
        BytesIO(file.read_bytes()),
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGBA"),
        RGBImage(pixels=PIXELS, name="mine"),
    ]
    for image in kinds:
        drawn = make().draw(image)
        assert isinstance(drawn, Image.Image), type(image)
        np.testing.assert_array_equal(np.asarray(drawn), EXPECTED)
    assert not np.array_equal(EXPECTED, PIXELS)


def test_an_array_gives_an_array(file: Path) -> None:
    before = PIXELS.copy()
    planar = PIXELS.transpose(2, 0, 1).astype(np.float32) / 255
    for image in (PIXELS, planar):
        drawn = make().draw(image)
        assert isinstance(drawn, np.ndarray)
        np.testing.assert_array_equal(drawn, EXPECTED)
    np.testing.assert_array_equal(PIXELS, before)


def test_a_frame_of_opencv_comes_back_as_one(tmp_path: Path) -> None:
    frame = np.ascontiguousarray(PIXELS[:, :, ::-1])
    drawn = make().draw(frame, channel_order="bgr")
    np.testing.assert_array_equal(drawn, EXPECTED[:, :, ::-1])
    for array in (drawn, make().draw(PIXELS)):
        cv2.circle(array, (5, 5), 3, (0, 0, 255))  # it can be drawn on further
    make().save(tmp_path / "a.png", frame, channel_order="bgr")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), EXPECTED)
    with pytest.raises(UsageError, match="channel_order"):
        make().draw(frame, channel_order="gbr")  # type: ignore[call-overload]


def test_a_tensor_is_drawn_on() -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(np.asarray(make().draw(torch.tensor(PIXELS.transpose(2, 0, 1)))), EXPECTED)


def test_without_an_image_the_source_is_drawn_on(file: Path) -> None:
    np.testing.assert_array_equal(np.asarray(make(file).draw()), EXPECTED)
    np.testing.assert_array_equal(np.asarray(make(file).plot()), EXPECTED)


def test_a_file_is_upright_as_for_the_detector(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # its rows are stored from the right to the left
    stored = Image.fromarray(np.rot90(PIXELS).copy())
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(make(tmp_path / "turned.png").draw()), EXPECTED)


@pytest.mark.parametrize(
    ("source", "what"),
    [(None, "came from no file"), ("gone.jpg", "gone.jpg is no file here"), ("clip.mp4#12", "#12 is")],
)
def test_without_a_file_the_image_is_asked_for(source: str | None, what: str) -> None:
    with pytest.raises(UsageError, match=rf"{what}.*\(hand in the image: draw\(image\)\)"):
        make(source).draw()


def test_an_image_of_another_size_is_refused(file: Path) -> None:
    with pytest.raises(ImageSizeError, match=r"expected an image of 330x400 .*, got 400x330"):
        make().draw(PIXELS.transpose(1, 0, 2))
    Image.new("RGB", (50, 40)).save(file)
    with pytest.raises(ImageSizeError, match=r"photo\.png: expected an image of 330x400 .*, got 40x50"):
        make(file).draw()


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"notes\.jpg"):
        make(tmp_path / "notes.jpg").draw()
    with pytest.raises(ImageError, match="image: expected a path"):
        make().draw(3.5)


@pytest.mark.parametrize(
    ("name", "file_format"), [("a.png", "PNG"), ("new/b.JPG", "JPEG"), ("c.jpeg", "JPEG"), ("d.webp", "WEBP")]
)
def test_the_suffix_chooses_the_format(name: str, file_format: str, tmp_path: Path) -> None:
    make().save(tmp_path / name, PIXELS)
    with Image.open(tmp_path / name) as saved:
        assert (saved.format, saved.size) == (file_format, (WIDTH, HEIGHT))
        error = np.abs(np.asarray(saved.convert("RGB")).astype(int) - EXPECTED).mean()
        assert error == 0 if file_format == "PNG" else error < 3


def test_the_source_is_saved_with_its_detections(file: Path, tmp_path: Path) -> None:
    make(file).save(tmp_path / "out.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), EXPECTED)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.json", "a.png.txt"])
def test_another_suffix_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in one of \.png, \.webp, \.jpg"):
        make("gone.jpg").save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"as it was")

    def fail(self: Image.Image, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match=r"a\.png: No space left"):
        make().save(tmp_path / "a.png", PIXELS)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]


class Page(HTMLParser):
    """The tags of a piece of HTML, with their attributes, its rows of cells, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def image(self) -> Image.Image:
        (source,) = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return Image.open(BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))


def test_a_notebook_shows_the_image_and_a_table(file: Path) -> None:
    text = make(file)._repr_html_()
    page = Page(text)
    assert page.rows == [
        ["", "class", "score", "x1", "y1", "x2", "y2"],
        ["0", "cat", "0.900", "20.0", "50.0", "200.0", "300.0"],
        ["1", "dog", "0.500", "220.0", "60.0", "390.0", "320.0"],
    ]
    assert f"2 objects in 400 x 330 pixels of {file}" in text
    assert np.abs(np.asarray(page.image()).astype(int) - EXPECTED).mean() < 3


def test_a_large_image_is_scaled_down(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.jpg")
    found = dataclasses.replace(make(tmp_path / "large.jpg"), image_size=(1500, 3000))
    assert Page(found._repr_html_()).image().size == (960, 480)


@pytest.mark.parametrize("source", [None, "gone.jpg", "http://host/a.jpg", "a\0b", "damaged", "folder", "other"])
def test_without_its_image_a_notebook_shows_the_table(source: str | None, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "other", format="PNG")
    there = {"damaged", "folder", "other"}
    page = Page(make(tmp_path / source if source in there else source)._repr_html_())
    assert "img" not in {tag for tag, _ in page.tags}
    assert [row[1] for row in page.rows] == ["class", "cat", "dog"]


def test_names_and_paths_are_text_in_a_notebook(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    path = tmp_path / '"><svg onload=alert(2)>.png'
    Image.fromarray(PIXELS).save(path)
    page = Page(make(path, names=("__background__", hostile, "dog"))._repr_html_())
    assert {tag for tag, _ in page.tags} == {"div", "p", "img", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, attributes in page.tags for name in attributes} == {"src", "alt"}
    assert page.rows[1][1] == hostile


def test_many_objects_are_counted_and_none_is_no_table() -> None:
    page = make(count=40)._repr_html_()
    assert len(Page(page).rows) == 1 + 25
    assert re.search("40 objects in .*and 15 more", page)
    assert "<table" not in make(count=0)._repr_html_()
    assert make(count=0)._repr_html_().startswith("<div><p>0 objects in")
    assert "1 object in" in make(count=1)._repr_html_()
