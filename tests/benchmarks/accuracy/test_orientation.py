"""Boxes of images that EXIF turns are read as they were written, and that is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.benchmarks.accuracy.images import DetectedImage
from frcnn.benchmarks.accuracy.orientation import turn_upright, warn_of_reading
from frcnn.log import warn_once
from frcnn.runtime import Detections
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation

STORED, UPRIGHT = (40, 64), (64, 40)  # (height, width) of a file that EXIF turns by a quarter
AT_RIGHT, AT_FOOT = (50, 10, 12, 20), (10, 50, 20, 12)  # x, y, width, height: stored pixels and upright ones only
AMID = (6, 4, 10, 20)  # either
AMID_TURNED = (40 - 4 - 20, 6, 20, 10)  # by orientation 6


@pytest.fixture(autouse=True)
def _says_again():
    warn_once.cache_clear()


@pytest.fixture
def annotated(tmp_path):
    def make(name, box, size=None, orientation=6, stored=STORED):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.zeros((*stored, 3), np.uint8)).save(tmp_path / name, exif=exif)
        items = () if box is None else (Annotation(category_id=1, bbox=box, area=7.0),)
        return {tmp_path / name: AnnotatedImage(file_name=name, size=size, annotations=items)}

    return make


def read(files: dict[Path, AnnotatedImage], *exif) -> dict[str, tuple]:
    """Return the size and the box of each image."""
    upright, _ = turn_upright(files, *exif)
    assert list(upright) == list(files)
    assert all(item.area == 7.0 for image in upright.values() for item in image.annotations)
    return {image.file_name: (image.size, *(item.bbox for item in image.annotations)) for image in upright.values()}


@pytest.mark.parametrize("size", [None, STORED, UPRIGHT])
@pytest.mark.parametrize(
    ("box", "expected", "reading"), [(AT_FOOT, AT_FOOT, "upright"), (AT_RIGHT, (10, 50, 20, 12), "stored")]
)
def test_boxes_that_leave_the_image_show_the_other_reading(annotated, caplog, size, box, expected, reading):
    assert read(annotated("a.jpg", box, size)) == {"a.jpg": (size and UPRIGHT, expected)}
    said = f"EXIF turns 1 of 1 images; boxes are taken as {reading} in 1, as boxes show"
    assert caplog.messages == [f"frcnn: {said}: --exif upright or --exif stored settles it"]


@pytest.mark.parametrize(
    ("size", "expected", "shown"),
    [
        (UPRIGHT, AMID, "upright in 1, as sizes say"),
        (STORED, AMID_TURNED, "stored in 1, as sizes say"),
        (None, AMID, "upright in 1, as nothing denies"),
    ],
)
def test_where_boxes_show_nothing_sizes_do(annotated, caplog, size, expected, shown):
    assert read(annotated("a.jpg", AMID, size)) == {"a.jpg": (size and UPRIGHT, expected)}
    assert shown in caplog.text


@pytest.mark.parametrize(("box", "expected"), [(AT_FOOT, AMID), (AT_RIGHT, AMID_TURNED)])
def test_what_boxes_of_some_images_show_is_taken_for_those_that_show_nothing(annotated, box, expected):
    files = annotated("a.jpg", box) | annotated("b.jpg", AMID, STORED) | annotated("c.jpg", AMID)
    found = read(files)
    assert (found["b.jpg"], found["c.jpg"]) == ((UPRIGHT, expected), (None, expected))


def test_a_turn_by_half_and_a_square_are_read_as_the_others_are(annotated):
    files = annotated("a.jpg", AT_RIGHT) | annotated("b.jpg", AMID, STORED, 3)
    files |= annotated("c.jpg", AMID, (64, 64), 6, stored=(64, 64))
    found = read(files)
    assert found["b.jpg"] == (STORED, (64 - 6 - 10, 40 - 4 - 20, 10, 20))
    assert found["c.jpg"] == ((64, 64), (64 - 4 - 20, 6, 20, 10))


def test_a_set_of_two_kinds_is_read_by_each_images_own_boxes_and_counted(annotated, caplog):
    files = annotated("a.jpg", AT_RIGHT) | annotated("b.jpg", AT_FOOT) | annotated("c.jpg", AT_FOOT)
    assert {name: boxes[0] for name, (_, *boxes) in read(files | annotated("d.jpg", AMID)).items()} == {
        "a.jpg": (10, 50, 20, 12),
        "b.jpg": AT_FOOT,
        "c.jpg": AT_FOOT,
        "d.jpg": AMID,
    }
    assert "EXIF turns 4 of 4 images; boxes are taken as upright in 3 and stored in 1, as boxes show" in caplog.text


def test_a_box_a_little_outside_shows_nothing(annotated):
    assert read(annotated("a.jpg", (39, 3, 2, 5), STORED))["a.jpg"][1] == (40 - 3 - 5, 39, 5, 2)  # by the size


def test_the_user_settles_it(annotated, caplog):
    files = annotated("a.jpg", AMID, UPRIGHT) | annotated("b.jpg", AT_RIGHT)
    assert read(files, "upright") == {"a.jpg": (UPRIGHT, AMID), "b.jpg": (None, AT_RIGHT)}
    assert read(files, "stored") == {"a.jpg": (UPRIGHT, AMID_TURNED), "b.jpg": (None, AT_FOOT)}
    assert caplog.messages == []


def test_images_that_exif_does_not_turn_and_unreadable_ones_stay(annotated, tmp_path, caplog):
    files = annotated("a.jpg", AMID, UPRIGHT, 1) | annotated("b.jpg", None, STORED, 1)
    for name in ("c.jpg", "d.jpg"):
        files |= annotated(name, AMID, STORED)
    (tmp_path / "c.jpg").write_bytes(b"no image")
    (tmp_path / "d.jpg").unlink()
    assert turn_upright(files) == (files, {})
    assert caplog.messages == []


def test_another_size_than_either_stays_to_be_refused(annotated):
    assert read(annotated("a.jpg", AMID, (30, 30)))["a.jpg"][0] == (30, 30)


def detected(files, truth, *, at) -> list[DetectedImage]:
    """Return a sure detection at a box in each image."""
    x, y, width, height = at
    found = Detections(boxes=np.array([[x, y, x + width, y + height]], np.float32), scores=[0.9], labels=[1],
                       image_size=UPRIGHT)  # fmt: skip
    return [DetectedImage(file, truth[file], found, None) for file in files]


def test_detections_that_fit_the_other_reading_are_warned_of(annotated, caplog):
    files = annotated("a.jpg", AMID, UPRIGHT) | annotated("b.jpg", AMID)
    truth, other = turn_upright(files)
    caplog.clear()
    warn_of_reading(detected(files, truth, at=AMID), other, {1: 1})
    warn_of_reading(detected(files, truth, at=(0, 0, 2, 2)), other, {1: 1})
    warn_of_reading(detected(files, truth, at=AMID_TURNED), {}, {1: 1})
    warn_of_reading([], other, {1: 1})
    assert caplog.messages == []
    warn_of_reading(detected(files, truth, at=AMID_TURNED), other, {1: 1})
    said = "in the 2 images that EXIF turns AP50 is 0.00, and 1.00 if their boxes are read the other way"
    assert caplog.messages == [f"frcnn: {said}: --exif upright or --exif stored settles it"]
