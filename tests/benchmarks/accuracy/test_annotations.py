"""COCO's annotation files and Pascal VOC's folders: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from frcnn.benchmarks.accuracy.annotations import read_coco, read_voc
from frcnn.errors import UsageError

DOCUMENT: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 60, "width": 80, "license": 4},
        {"id": 9, "file_name": "deep/b.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2.5, 30, 40], "area": 500.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 90, "bbox": [0, 0, 10, 10], "iscrowd": 1, "segmentation": {}},
    ],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 90, "name": "toothbrush"}],
}


@pytest.fixture
def written(tmp_path):
    def write(document: Any = DOCUMENT):
        path = tmp_path / "instances.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def changed(part: str, index: int, **values: Any) -> dict[str, Any]:
    document = json.loads(json.dumps(DOCUMENT))
    document[part][index].update(values)
    return document


def test_coco_images_annotations_and_categories_are_read(written):
    ground_truth = read_coco(written())
    assert ground_truth.categories == {3: "cat", 90: "toothbrush"}
    assert ground_truth.has_ids
    first, second = ground_truth.images
    assert (first.file_name, first.size, second.file_name, second.size) == ("a.jpg", (60, 80), "deep/b.jpg", None)
    cat, brush = first.annotations
    assert (cat.category_id, cat.bbox, cat.area, cat.iscrowd) == (3, (1, 2.5, 30, 40), 500.5, False)
    assert (brush.category_id, brush.area, brush.iscrowd) == (90, 100, True)
    assert second.annotations == ()
    assert ground_truth.used_categories() == {3, 90}
    assert ground_truth.used_categories(with_crowds=False) == {3}


def test_image_ids_may_be_text(written):
    document = changed("images", 0, id="a")
    for annotation in document["annotations"]:
        annotation["image_id"] = "a"
    assert len(read_coco(written(document)).images[0].annotations) == 2


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ({"images": [], "annotations": []}, "missing required field `categories`"),
        ({"images": [], "annotations": [], "categories": []}, "lists no images"),
        (changed("annotations", 1, bbox=[1, 2, 3]), r"Expected `array` of length 4 - at `$.annotations[1].bbox`"),
        (changed("annotations", 1, bbox=[1, 2, -3, 4]), "Expected `float` >= 0.0 - at `$.annotations[1].bbox[2]`"),
        (changed("annotations", 0, image_id=8), "annotations[0] is of the image 8, which is not listed"),
        (changed("annotations", 0, category_id=4), "annotations[0] is of the category 4, which is not listed"),
        (changed("images", 1, id=7), "two images have the id 7"),
        (changed("images", 1, file_name="a.jpg"), "two images have the file name 'a.jpg'"),
        (changed("categories", 1, id=3), "two categories have the id 3"),
        (changed("categories", 1, id="3"), "Expected `int`, got `str` - at `$.categories[1].id`"),
    ],
)
def test_invalid_coco_is_refused_in_one_line(document, message, written):
    with pytest.raises(UsageError) as caught:
        read_coco(written(document))
    assert message in caught.value.message
    assert "instances.json" in caught.value.message and "\n" not in caught.value.message


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*none.json: No such file"):
        read_coco(tmp_path / "none.json")


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
