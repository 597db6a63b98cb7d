"""Pascal VOC's folders, read as COCO's."""

from __future__ import annotations

import pytest

from frcnn.benchmarks.accuracy.voc_annotations import read_voc
from frcnn.errors import UsageError

OBJECT = """<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>
  <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
PLAIN = "<annotation><filename>x.jpg</filename>{size}{objects}</annotation>"
SIZE = "<size><width>500</width><height>375</height><depth>3</depth></size>"
BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>"""
OTHER_FILE = """<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation><x>&a;</x></annotation>"""


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()

    def write(**texts: str):
        for stem, text in texts.items():
            (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
        return tmp_path / "Annotations", tmp_path / "JPEGImages"

    return write


def annotation(*objects: tuple[str, tuple[float, ...], int], size: str = SIZE) -> str:
    items = (OBJECT.format(name=name, box=box, difficult=difficult) for name, box, difficult in objects)
    return PLAIN.format(size=size, objects="".join(items))


def test_voc_corners_count_from_1_and_lie_inside(voc):
    """A box over a whole image of 500 x 375 is 1, 1, 500, 375 in VOC; one of a single pixel has four equal sides."""
    ground_truth = read_voc(*voc(a=annotation(("dog", (1, 1, 500, 375), 0), ("cat", (3, 4, 3, 4), 1))))
    (image,) = ground_truth.images
    assert image.size == (375, 500)
    dog, cat = image.annotations
    assert (ground_truth.categories[dog.category_id], dog.bbox, dog.area) == ("dog", (0, 0, 500, 375), 500 * 375)
    assert (ground_truth.categories[cat.category_id], cat.bbox, cat.area) == ("cat", (2, 3, 1, 1), 1)
    assert (dog.iscrowd, cat.iscrowd) == (False, True), "difficult"


def test_voc_names_become_categories(voc):
    ground_truth = read_voc(*voc(b=annotation(("dog", (1, 1, 9, 9), 0)), a=annotation(("cat", (1, 1, 9, 9), 0))))
    assert ground_truth.categories == {1: "cat", 2: "dog"}
    assert not ground_truth.has_ids
    assert ground_truth.used_categories() == {1, 2}


def test_a_voc_image_has_the_name_of_its_annotation(voc):
    annotations, images = voc(a=annotation(), b=annotation(), c=annotation())
    for name in ("a.png", "b.JPG", "b.png", "a.txt"):
        (images / name).touch()
    assert [p.file_name for p in read_voc(annotations, images).images] == ["a.png", "b.JPG", "c.jpg"]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_none(size, voc):
    assert read_voc(*voc(a=annotation(size=size))).images[0].size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "no element found"),
        ("", "no element found"),
        ("<html/>", "the root is <html>"),
        (BOMB, "it has a document type"),
        (OTHER_FILE, "it has a document type"),
        (annotation(("", (1, 1, 9, 9), 0)), "Expected `str` of length >= 1 - at `$[0].name`"),
        (annotation(("dog", (5, 1, 4, 9), 0)), "the box ends before it begins - at `$[0].bndbox`"),
        (annotation(("dog", ("x", 1, 4, 9), 0)), "Expected `float`, got `str` - at `$[0].bndbox.xmin`"),
        (annotation(("dog", ("nan", 1, 4, 9), 0)), "Expected `float` >= -1000000000.0 - at `$[0].bndbox.xmin`"),
        (
            "<annotation><object><name>dog</name></object></annotation>",
            "missing required field `bndbox`",
        ),
    ],
)
def test_invalid_voc_is_refused_in_one_line(text, message, voc):
    with pytest.raises(UsageError) as caught:
        read_voc(*voc(a=annotation(), b=text))
    assert message in caught.value.message
    assert "b.xml" in caught.value.message and "\n" not in caught.value.message


def test_a_folder_without_annotations_is_refused(voc):
    with pytest.raises(UsageError, match="has no XML files"):
        read_voc(*voc())
