"""COCO's annotation files and Pascal VOC's folders: what is read, and what is refused in one line."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import pytest

from frcnn.errors import UsageError
from frcnn.runtime.dataset.annotations import read_coco, read_voc
from frcnn.runtime.dataset.files import find_images

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
        (changed("images", 1, id=7), "2 images have the id 7: 'a.jpg', 'deep/b.jpg'"),
        (changed("images", 1, file_name="a.jpg"), "2 images have the file name 'a.jpg': 7, 9"),
        (changed("images", 1, height=math.nan), "Expected `float | null`, got `str` - at `$.images[1].height`"),
        (changed("categories", 1, id=3), "2 categories have the id 3: 'cat', 'toothbrush'"),
        (changed("categories", 1, id="3"), "Expected `int`, got `str` - at `$.categories[1].id`"),
    ],
)
def test_invalid_coco_is_refused_in_one_line(document, message, written):
    with pytest.raises(UsageError) as caught:
        read_coco(written(document))
    assert message in caught.value.message
    assert "instances.json" in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]: Expected `array` of length 4"),
        ({"bbox": [1, 2, -3, 4]}, "bbox is [1, 2, -3, 4]: Expected `float` >= 0.0 - at `$.bbox[2]`"),
        ({"bbox": [1, math.nan, 3, 4]}, "bbox is [1, NaN, 3, 4]: Expected `float`"),
        ({"bbox": None}, "bbox is null: Expected `array`"),
        ({"area": math.inf}, "area is Infinity: Expected `float | null`"),
        ({"area": -math.inf}, "area is -Infinity: Expected `float | null`"),
        ({"area": -1}, "area is -1: Expected `float` >= 0.0"),
        ({"iscrowd": "maybe"}, 'iscrowd is "maybe": expected 0 or 1'),
        ({"iscrowd": 2}, "iscrowd is 2: expected 0 or 1"),
        ({"category_id": 4}, "category_id is 4: it is not listed"),
        ({"category_id": "3"}, 'category_id is "3": Expected `int`, got `str`'),
    ],
)
def test_an_invalid_coco_annotation_is_named_with_what_it_has(values, fault, written):
    with pytest.raises(UsageError) as caught:
        read_coco(written(changed("annotations", 1, **values)))
    assert "instances.json: 1 of 2 annotations are invalid: annotations[1] of image 7: " + fault in caught.value.message
    assert "--skip-invalid" in caught.value.hint


def test_all_invalid_coco_annotations_are_counted_and_may_be_left_out(written):
    document = changed("annotations", 0, bbox=[1, 2, 3, -1])
    document["annotations"] += [{"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}, [], {"image_id": 9}]
    with pytest.raises(UsageError, match="4 of 5 annotations are invalid") as caught:
        read_coco(written(document))
    faults = [
        "annotations[0] of image 7: bbox is [1, 2, 3, -1]: Expected",
        "annotations[2] of image 8: image_id is 8: it is not listed",
        "annotations[3]: Expected `object`, got `array`",
        "annotations[4] of image 9: Object missing required field `category_id`",
    ]
    assert all(fault in caught.value.message for fault in faults)
    ground_truth = read_coco(written(document), skip_invalid=True)
    assert [[item.category_id for item in image.annotations] for image in ground_truth.images] == [[90], []]
    assert len(ground_truth.invalid) == 4
    assert all(found.startswith(fault) for found, fault in zip(ground_truth.invalid, faults, strict=True))


def test_of_many_invalid_annotations_ten_are_shown(written):
    document = changed("annotations", 0)
    document["annotations"] = [document["annotations"][0] | {"bbox": [0, 0, -1, 1]}] * 42
    with pytest.raises(UsageError, match=r"42 of 42 annotations are invalid: .*annotations\[9\].* and 32 more"):
        read_coco(written(document))


@pytest.mark.parametrize(
    ("values", "area", "is_crowd"),
    [
        ({"area": None, "iscrowd": None}, 100, False),
        ({"area": 0, "iscrowd": "1"}, 100, True),
        ({"area": 0.0, "iscrowd": True}, 100, True),
        ({"area": 7.5, "iscrowd": "False"}, 7.5, False),
        ({"area": 7, "iscrowd": ""}, 7, False),
    ],
)
def test_an_area_of_0_or_null_is_not_known_and_flags_are_words(values, area, is_crowd, written):
    item = read_coco(written(changed("annotations", 1, **values))).images[0].annotations[1]
    assert (item.area, item.iscrowd) == (area, is_crowd)


@pytest.mark.parametrize(
    "values", [{"height": 0, "width": 0}, {"height": None, "width": 80}, {"height": 60, "width": 0}]
)
def test_a_coco_size_of_0_or_null_is_not_known(values, written):
    assert read_coco(written(changed("images", 0, **values))).images[0].size is None


def test_spaces_around_category_names_do_not_count(written):
    assert read_coco(written(changed("categories", 0, name=" cat\t"))).categories[3] == "cat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_other_ends_of_lines_are_fine(encoding, end, written, voc):
    text = json.dumps(changed("categories", 0, name="Hündin"), indent=1, ensure_ascii=False).replace("\n", end)
    path = written()
    path.write_bytes(text.encode(encoding))
    assert read_coco(path).categories == {3: "Hündin", 90: "toothbrush"}
    annotations, images = voc(a="")
    xml = annotation(("Hündin", (1, 1, 9, 9), 0)).replace("\n", end)
    (annotations / "a.xml").write_bytes(xml.encode(encoding))
    assert read_voc(annotations, images).categories == {1: "Hündin"}


def test_numbers_that_are_not_read_may_be_nan(written):
    document = changed("annotations", 0, segmentation=[[math.nan]], note="NaN")
    assert len(read_coco(written(document)).images[0].annotations) == 2


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UsageError, match=r"none.json: no such file or folder"):
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


def annotation(*objects: tuple[str, tuple[float | str, ...], int | str], size: str = SIZE) -> str:
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
    assert [p.file_name for p in read_voc(annotations, images).images] == ["a.png", "b.JPG", "c.png"]


def test_a_voc_image_whose_name_is_written_otherwise_is_found(voc):
    nfc, nfd = (unicodedata.normalize(form, "né") for form in ("NFC", "NFD"))
    annotations, images = voc(**{name: annotation() for name in (nfc, "B", "c")})
    for name in (f"{nfd}.png", "b.png", "c.png"):
        (images / name).write_bytes(b"x")
    files, _ = find_images(read_voc(annotations, images), images)
    assert {image.file_name: file.name for file, image in files.items()} == {
        f"{nfc}.png": f"{nfd}.png",
        "B.png": "b.png",
        "c.png": "c.png",
    }


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size><width/></size>"])
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
        (annotation(("", (1, 1, 9, 9), 0)), 'b.xml: object 1: name is "": Expected `str` of length >= 1'),
        (
            annotation(("dog", (5, 1, 4, 9), 0)),
            'object 1: bndbox is {"xmin": "5", "ymin": "1", "xmax": "4", "ymax": "9"}',
        ),
        (annotation(("dog", ("x", 1, 4, 9), 0)), 'object 1: bndbox is {"xmin": "x", "ymin": "1"'),
        (annotation(("dog", ("nan", 1, 4, 9), 0)), 'object 1: bndbox is {"xmin": "nan", "ymin": "1"'),
        (annotation(("dog", (1, 1, 4, 9), "perhaps")), 'object 1: difficult is "perhaps": expected 0 or 1'),
        (
            "<annotation><object><name>dog</name></object></annotation>",
            "object 1: Object missing required field `bndbox`",
        ),
    ],
)
def test_invalid_voc_is_refused_in_one_line(text, message, voc):
    with pytest.raises(UsageError) as caught:
        read_voc(*voc(a=annotation(), b=text))
    assert message in caught.value.message
    assert "b.xml" in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("word", "is_difficult"),
    [
        ("Unspecified", False),
        ("False", False),
        ("no", False),
        ("", False),
        ("1", True),
        ("True", True),
        (" Yes ", True),
    ],
)
def test_tools_write_words_for_the_difficult_flag(word, is_difficult, voc):
    ground_truth = read_voc(*voc(a=annotation(("dog", (1, 1, 9, 9), word))))
    assert ground_truth.images[0].annotations[0].iscrowd is is_difficult


def test_invalid_voc_objects_and_files_are_counted_and_may_be_left_out(voc):
    bad = annotation(("dog", (1, 1, 9, 9), 0), ("cat", (5, 1, 4, 9), 0), ("cat", (1, 1, 9, 9), "perhaps"))
    folders = voc(a=annotation(("dog", (1, 1, 9, 9), 0)), b=bad, c="<annotation>")
    with pytest.raises(
        UsageError, match=r"3 of 5 annotations are invalid: b.xml: object 2: .*, b.xml: object 3: .*c.xml"
    ):
        read_voc(*folders)
    ground_truth = read_voc(*folders, skip_invalid=True)
    assert [(image.file_name, len(image.annotations)) for image in ground_truth.images] == [("a.jpg", 1), ("b.jpg", 1)]
    assert (ground_truth.categories, len(ground_truth.invalid)) == ({1: "dog"}, 3)


def test_invalid_voc_files_alone_cannot_be_left_out(voc):
    with pytest.raises(UsageError, match="1 of 1 annotations are invalid"):
        read_voc(*voc(c="<annotation>"), skip_invalid=True)


def test_a_folder_without_annotations_is_refused(voc):
    with pytest.raises(UsageError, match="has no XML files"):
        read_voc(*voc())
