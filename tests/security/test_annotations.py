"""Annotations of others: images outside the folder are not opened, and numbers stay such as can be computed with."""

import json

import pytest
from support.hostile.watch import misdeeds

from frcnn.errors import UsageError
from frcnn.exporter.checkpoint.builder_arguments import parse_args
from frcnn.runtime.dataset.annotations import read_coco, read_voc
from frcnn.runtime.dataset.files import find_images

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}],
    "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 1, 2, 3], "area": 6}],
    "categories": [{"id": 7, "name": "cat"}],
}


def coco(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


OUTSIDE = ["../secret.png", "a/../../secret.png", "/etc/passwd", "C:\\secret.png", "..\\secret.png", "\\\\host\\x.png"]


@pytest.mark.parametrize("name", [*OUTSIDE, "", ".", "a\0.png", "a" * 300, "a/" * 3000])
def test_a_file_name_that_leads_out_of_the_folder_or_is_none_finds_nothing(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    document = json.loads(json.dumps(COCO))
    document["images"][0]["file_name"] = name
    truth = read_coco(coco(tmp_path, document))
    with pytest.raises(UsageError, match="none of the 1 images that") as raised:
        find_images(truth, tmp_path / "images", allow_missing=True)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", OUTSIDE[:5])
def test_a_file_name_that_leads_out_of_the_folder_is_the_file_of_that_name_inside(tmp_path, name):
    (tmp_path / "images").mkdir()
    for folder in (tmp_path, tmp_path / "images"):
        (folder / "secret.png").write_bytes(b"x")
        (folder / "passwd").write_bytes(b"x")
    document = json.loads(json.dumps(COCO))
    document["images"][0]["file_name"] = name
    files, _ = find_images(read_coco(coco(tmp_path, document)), tmp_path / "images")
    assert [file.relative_to(tmp_path / "images").name for file in files] == [name.replace("\\", "/").split("/")[-1]]


def test_a_file_name_in_a_folder_inside_is_fine(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "a..b.jpg").write_bytes(b"x")
    document = json.loads(json.dumps(COCO))
    document["images"][0]["file_name"] = "deep/a..b.jpg"
    files, skipped = find_images(read_coco(coco(tmp_path, document)), tmp_path / "images")
    assert len(files) == 1 and skipped == {}


TEXT = json.dumps(COCO)
HOSTILE = {
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "an endless number": TEXT.replace('"id": 7', '"id": ' + "9" * 100_000),
    "a number beyond 64 bits": TEXT.replace('"id": 7', '"id": 18446744073709551616'),
    "a box beyond any image": TEXT.replace("[0, 1, 2, 3]", "[0, 1, 1e300, 1e300]"),
    "a box of NaN": TEXT.replace("[0, 1, 2, 3]", "[0, 1, NaN, 3]"),
    "an infinite box": TEXT.replace("[0, 1, 2, 3]", "[0, 1, 1e999, 3]"),
    "a negative area": TEXT.replace('"area": 6', '"area": -6'),
    "a negative size": TEXT.replace('"height": 10', '"height": -10'),
    "an absurd size": TEXT.replace('"height": 10', '"height": 1e300'),
    "another type": TEXT.replace('"a.jpg"', "[1]"),
    "cut": TEXT[:-30],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_coco_is_one_clear_line(tmp_path, kind):
    with misdeeds(tmp_path) as seen, pytest.raises(UsageError) as raised:
        read_coco(coco(tmp_path, HOSTILE[kind]))
    assert seen == []
    assert raised.value.message.startswith("--annotations: ") and raised.value.message.isprintable()


def test_of_a_key_given_twice_the_last_counts_as_in_every_tool(tmp_path):
    text = TEXT.replace('"name": "cat"', '"name": "dog", "name": "cat"')
    assert read_coco(coco(tmp_path, text)).categories == {7: "cat"} == {7: json.loads(text)["categories"][0]["name"]}


OBJECT = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
XML = {
    "entities": f'<!DOCTYPE a [<!ENTITY b "{"x" * 99}"><!ENTITY c "{"&b;" * 99}">]><annotation>{OBJECT}</annotation>',
    "another file": f'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;{OBJECT}</annotation>',
    "an infinite size": f"<annotation><size><width>inf</width><height>1</height></size>{OBJECT}</annotation>",
    "an infinite corner": f"<annotation>{OBJECT.replace('<xmax>3', '<xmax>inf')}</annotation>",
    "an absurd corner": f"<annotation>{OBJECT.replace('<xmax>3', '<xmax>1e300')}</annotation>",
    "a corner of NaN": f"<annotation>{OBJECT.replace('<xmax>3', '<xmax>nan')}</annotation>",
    "cut": f"<annotation>{OBJECT}",
    "an unknown encoding": f'<?xml version="1.0" encoding="utf-77"?><annotation>{OBJECT}</annotation>',
}


@pytest.mark.parametrize("kind", XML)
def test_hostile_voc_is_one_clear_line(tmp_path, kind):
    (tmp_path / "a.xml").write_text(XML[kind])
    with misdeeds(tmp_path) as seen, pytest.raises(UsageError) as raised:
        read_voc(tmp_path, tmp_path)
    assert seen == []
    assert raised.value.message.startswith("--annotations: ") and raised.value.message.isprintable()


@pytest.mark.parametrize(
    "text", ["{[]: 1}", "[" * 10_000, "9" * 10_000, "-" * 10_000 + "1", "__import__('os').abort()"]
)
def test_an_argument_that_is_no_literal_is_kept_as_text(text):
    assert parse_args([f"a={text}"]) == {"a": text}
