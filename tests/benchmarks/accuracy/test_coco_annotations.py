"""COCO's annotation files: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from frcnn.benchmarks.accuracy.coco_annotations import read_coco
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
