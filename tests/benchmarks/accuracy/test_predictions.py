"""COCO results of other tools: what is read, and what is refused in one line that names the entry."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frcnn.benchmarks.accuracy.scoring import read_predictions
from frcnn.errors import UsageError
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation, GroundTruth

OBJECT = Annotation(category_id=3, bbox=(0, 0, 9, 9))
GROUND_TRUTH = GroundTruth(
    source="set.json",
    categories={3: "cat", 90: "toothbrush"},
    images=(
        AnnotatedImage(file_name="a.jpg", id=70, size=None, annotations=(OBJECT,)),
        AnnotatedImage(file_name="b.jpg", id="b", size=None, annotations=(OBJECT,)),
        AnnotatedImage(file_name="c.jpg", id=5, size=None),
    ),
)
RESULTS: list[dict[str, Any]] = [
    {"image_id": "b", "category_id": 90, "bbox": [1, 2.5, 30, 40], "score": 0.05, "id": 9, "segmentation": {}},
    {"image_id": 70, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.75, "file_name": "a.jpg"},
]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], list[dict[str, Any]]]:
    path = tmp_path / "results.json"

    def write_and_read(document: Any) -> list[dict[str, Any]]:
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_predictions(path, GROUND_TRUTH)

    return write_and_read


def test_images_are_numbered_as_in_the_annotations(read, capsys):
    assert read(RESULTS) == [
        {"image_id": 2, "category_id": 90, "bbox": [1, 2.5, 30, 40], "score": 0.05},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.75},
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_id": 71}, "results[1] of image 71: image_id is 71: it is not listed"),
        ({"image_id": "70"}, "results[1] of image '70': image_id is \"70\": it is not listed"),
        ({"image_id": None}, "results[1] of image None: image_id is null: Expected `int | str`"),
        ({"category_id": 4}, "category_id is 4: it is not listed"),
        ({"category_id": "cat"}, 'category_id is "cat": Expected `int`'),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]: Expected `array` of length 4"),
        ({"bbox": [1, 2, 3, -4]}, "bbox is [1, 2, 3, -4]: Expected `float` >= 0"),
        ({"bbox": [1, math.nan, 3, 4]}, "bbox is [1, NaN, 3, 4]: Expected `float`, got `str`"),
        ({"bbox": [1, 2, 1e10, 4]}, "bbox is [1, 2, 10000000000.0, 4]: Expected `float` <= 1000000000.0"),
        ({"score": math.inf}, "score is Infinity: Expected `float`, got `str`"),
        ({"score": "0.5"}, 'score is "0.5": Expected `float`'),
    ],
)
def test_an_invalid_result_is_named_by_its_place(read, values, message):
    with pytest.raises(UsageError) as caught:
        read([RESULTS[0], RESULTS[1] | values])
    assert "results.json: 1 of 2 results are invalid: results[1] of image " in caught.value.message
    assert message in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint.startswith("expected COCO results: a list of image_id, category_id, bbox")


def test_a_result_without_a_score_is_named(read):
    with pytest.raises(UsageError, match=r"results\[0\] of image 70: Object missing required field `score`"):
        read([{"image_id": 70, "category_id": 3, "bbox": [0, 0, 1, 1]}])


def test_a_result_given_twice_is_named_and_equal_boxes_with_other_scores_are_not(read):
    assert len(read([*RESULTS, RESULTS[1] | {"score": 0.5}])) == 3
    with pytest.raises(UsageError, match=r"1 of 3 results are invalid: results\[2\] of image 70 is results\[1\] once"):
        read([*RESULTS, RESULTS[1]])


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[[", '{"images": []}', "[" * 100_000])
def test_what_is_no_list_of_results_is_refused_in_one_line(read, text):
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.message.startswith("--predictions: ") and "\n" not in caught.value.message


def test_a_missing_file_and_one_that_is_too_large_are_refused(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(UsageError, match="no such file"):
        read_predictions(path, GROUND_TRUTH)
    with path.open("wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(UsageError, match="it has 4,294,967,297 bytes, expected 4,294,967,296 at most"):
        read_predictions(path, GROUND_TRUTH)


def test_what_lowers_scores_unseen_is_noted(read, capsys):
    read(RESULTS[1:])
    err = capsys.readouterr().err
    assert "1 images with objects have no results: b.jpg\n" in err
    assert "no result scores below 0.75: cut results lower AP; frcnn detect --score 0 keeps all" in err
    read([RESULTS[1] | {"bbox": [x, 0, 10, 10]} for x in range(100)])
    assert "cut results" not in capsys.readouterr().err
