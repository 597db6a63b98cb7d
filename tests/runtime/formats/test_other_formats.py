"""frcnn.runtime.formats; what foreign libraries make of the files is in tests/integrations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.detection_sets import NAMES, detection_sets

from frcnn.errors import OutputError, UsageError
from frcnn.runtime import Detections
from frcnn.runtime import formats as of

Read = Callable[..., list[Detections]]
ONE = Detections(
    boxes=np.array([[16, 12, 32, 36]]),
    scores=np.array([0.3]),
    labels=np.array([2]),
    image_size=(48, 64),
    source="/a.jpg",
    label_names=("__background__", "cat", "dog"),
)


def read_yolo(path: Path, label_names: Sequence[str] | None = None) -> list[Detections]:
    sizes = {found.source or "": found.image_size for found in detection_sets()}
    return of.from_yolo(path / "labels", image_sizes=sizes, label_names=label_names)


READERS: dict[str, Read] = {
    "cvat": of.from_cvat,
    "fiftyone": of.from_fiftyone,
    "label-studio": of.from_label_studio,
    "yolo-scores": read_yolo,
    "yolo": read_yolo,
}


def require_same(found: Sequence[Detections], expected: Sequence[Detections], *, scores: bool = True) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.source, one.image_size, one.label_names) == (other.source, other.image_size, other.label_names)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.scores, other.scores if scores else np.ones(len(other)))


@pytest.mark.parametrize("kind", of.FORMATS)
def test_what_was_written_is_read_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    of.write(kind, tmp_path / "out", detection_sets())
    require_same(READERS[kind](tmp_path / "out", label_names=NAMES), detection_sets(), scores=kind != "yolo")


@pytest.mark.parametrize("kind", of.FORMATS)
def test_classes_without_names_are_their_numbers(kind: str, tmp_path: Path) -> None:
    of.write(kind, tmp_path / "out", detection_sets(names=None))
    require_same(READERS[kind](tmp_path / "out"), detection_sets(names=None), scores=kind != "yolo")


@pytest.mark.parametrize("kind", ["cvat", "fiftyone"])
def test_a_file_that_lists_its_classes_keeps_their_order(kind: str, tmp_path: Path) -> None:
    of.write(kind, tmp_path / "out", [ONE])
    require_same(READERS[kind](tmp_path / "out"), [ONE])


def test_classes_that_are_not_listed_are_in_alphabetical_order() -> None:
    [read] = of.from_label_studio(of.to_label_studio([ONE]))
    assert (read.labels.tolist(), read.label_names) == ([1], ("__background__", "dog"))


def test_fiftyone_has_sides_relative_to_the_image() -> None:
    assert of.to_fiftyone([ONE], field="found") == {
        "name": "frcnn",
        "media_type": "image",
        "sample_fields": {"found": "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Detections)"},
        "classes": {"found": ["cat", "dog"]},
        "samples": [
            {
                "filepath": "/a.jpg",
                "metadata": {"_cls": "ImageMetadata", "width": 64, "height": 48},
                "found": {
                    "_cls": "Detections",
                    "detections": [
                        {
                            "_cls": "Detection",
                            "label": "dog",
                            "bounding_box": [0.25, 0.25, 0.25, 0.5],
                            "confidence": 0.3,
                        }
                    ],
                },
            }
        ],
    }


def test_label_studio_has_sides_in_percent() -> None:
    [task] = of.to_label_studio([ONE], address="/data/local-files/?d={}".format)
    assert task["data"] == {"image": "/data/local-files/?d=/a.jpg", "width": 64, "height": 48}
    assert task["predictions"] == [
        {
            "model_version": "frcnn",
            "result": [
                {
                    "id": "frcnn-1",
                    "type": "rectanglelabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": 64,
                    "original_height": 48,
                    "image_rotation": 0,
                    "score": 0.3,
                    "value": {
                        **{"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0},
                        "rectanglelabels": ["dog"],
                    },
                }
            ],
        }
    ]


def test_what_people_have_drawn_in_label_studio_is_read() -> None:
    [task] = of.to_label_studio([ONE])
    drawn = {"result": [{k: v for k, v in task["predictions"][0]["result"][0].items() if k != "score"}]}
    task["annotations"] = [{"result": [], "was_cancelled": True}, drawn]
    [read] = of.from_label_studio([task], kind="annotations", label_names=ONE.label_names)
    require_same([read], [ONE], scores=False)


def test_cvat_has_corners_and_the_score_as_an_attribute() -> None:
    text = of.to_cvat([dataclasses.replace(ONE, source='a "&".jpg')])
    assert (
        """<image id="0" name='a "&amp;".jpg' width="64" height="48">
<box label="dog" source="auto" occluded="0" xtl="16.0" ytl="12.0" xbr="32.0" ybr="36.0" z_order="0">
<attribute name="score">0.3</attribute></box>
</image>"""
        in text
    )


def test_yolo_has_centres_and_counts_from_0(tmp_path: Path) -> None:
    assert of.to_yolo(ONE) == "1 0.375 0.5 0.25 0.5\n"
    assert of.to_yolo(ONE, scores=True) == "1 0.375 0.5 0.25 0.5 0.3\n"
    of.write("yolo", tmp_path / "new", [ONE])
    assert (tmp_path / "new" / "data.yaml").read_text().endswith('nc: 2\nnames: ["cat", "dog"]\n')


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    expected = detection_sets(str(tmp_path / "images"))
    for found in expected:
        path = Path(found.source or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", found.image_size[::-1]).save(path)
    of.write("yolo", tmp_path / "out", expected)
    [number] = [i for i, found in enumerate(expected) if found.source == str(tmp_path / "images" / "a & b.jpg")]
    read = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "out" / "labels"), str(tmp_path / "out" / "data.yaml")
    )
    assert read.classes == list(NAMES[1:])
    found = read.annotations[expected[number].source]
    np.testing.assert_allclose(found.xyxy, expected[number].boxes, atol=1e-3)
    np.testing.assert_array_equal(found.class_id + 1, expected[number].labels)


def test_coco_results_are_read_back_with_their_data_set(tmp_path: Path) -> None:
    expected = detection_sets()
    ids = {1: 7, 2: 90, 3: 8}
    results = [entry for number, found in enumerate(expected) for entry in found.to_coco(number, ids)]
    images = [
        {"id": number, "file_name": found.source, "height": found.image_size[0], "width": found.image_size[1]}
        for number, found in enumerate(expected)
    ]
    dataset = {"images": images, "categories": [{"id": ids[i], "name": NAMES[i]} for i in ids]}
    (tmp_path / "r.json").write_text(json.dumps(results))
    for found, other in zip(of.from_coco(tmp_path / "r.json", dataset), expected, strict=True):
        assert (found.source, found.image_size, found.label_names) == (other.source, other.image_size, NAMES)
        np.testing.assert_allclose(found.boxes, other.boxes, rtol=2**-22)
        np.testing.assert_array_equal((found.labels, found.scores), (other.labels, other.scores))


BOX = '<box label="cat" xtl="1" ytl="1" xbr="2" ybr="2"'
IMAGE = '<image name="a" width="9" height="9">'


def cvat(body: str) -> Callable[[Path], object]:
    return lambda path: (path.write_text(body, "utf-8"), of.from_cvat(path))


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    [task] = of.to_label_studio([ONE])
    change(task)
    return lambda _: of.from_label_studio([task])


def first(task: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = task["predictions"][0]["result"][0]
    return result


def yolo(text: str, **options: Any) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        path.mkdir()
        (path / "a.txt").write_text(text)
        return of.from_yolo(path, **{"image_sizes": {"a.jpg": (4, 4)}, **options})

    return read


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (cvat('<!DOCTYPE a [<!ENTITY b "bbbb">]><annotations>&b;</annotations>'), "it has a document type"),
        (cvat("<svg/>"), "the root is <svg>"),
        (cvat("<annotations>"), "no element found"),
        (cvat(f'<annotations>{IMAGE}{BOX} rotation="9"/>'), "image 1, box 1: the box is rotated"),
        (cvat(f"<annotations>{IMAGE}{BOX.replace('2', 'nan')}/>"), "image 1, box 1: Expected `float` >= -1000000000.0"),
        (cvat(f"<annotations>{IMAGE}{BOX.replace('2', '0')}/>"), "the box ends before it begins"),
        (cvat(f"<annotations>{IMAGE}<polygon/>"), "it has a <polygon>"),
        (cvat('<annotations><image name="a" width="0" height="9">'), "Expected `int` >= 1 - at `$.width`"),
        (changed(lambda task: first(task)["value"].update(rotation=3)), "task 1: Expected `float` <= 0.0"),
        (changed(lambda task: first(task).update(type="brushlabels")), "Invalid enum value 'brushlabels'"),
        (changed(lambda task: first(task).update(score=2)), "Expected `float` <= 1.0"),
        (changed(lambda task: first(task).update(original_width=None)), "width and height of /a.jpg are neither there"),
        (changed(lambda task: first(task)["value"].update(rectanglelabels=["a", "b"])), "`array` of length <= 1"),
        (changed(lambda task: task.update(predictions=task["predictions"] * 2)), "it has 2 predictions, expected one"),
        (lambda _: of.from_label_studio({"tasks": []}), "Expected `array`, got `object`"),
        (lambda _: of.from_fiftyone({"samples": [{"filepath": "a", "found": None}]}), "no sample has the field 'pred"),
        (lambda _: of.from_fiftyone({"samples": [{"filepath": 1, "predictions": None}]}), "samples[0]: Expected `str`"),
        (lambda _: of.from_fiftyone(of.to_fiftyone([ONE]), label_names=("b", "dogs")), "'dog' is none of the 1 known"),
        (yolo("0 0.5 0.5 1"), "line 1: it has 4 values"),
        (yolo("\n1.5 0 0 1 1"), "line 2: Expected `int`"),
        (yolo("0 0.5 0.5 -1 1"), "Expected `float` >= 0.0"),
        (yolo("1 0 0 1 1", label_names=("b", "cat")), "class 2 is none of the 1 known"),
        (yolo("", image_sizes={"b.jpg": (4, 4)}), "1 files are of no image in image_sizes: a.txt"),
        (yolo("", image_sizes={"b.jpg": (0, 4)}), "are of no image"),
        (yolo("", image_sizes={"a.jpg": (4, 4), "a.png": (4, 4)}), "a.jpg and a.png have one text file, a.txt"),
        (lambda _: of.from_coco([{}], {"images": [], "categories": []}), "missing required field `image_id`"),
        (lambda path: of.from_fiftyone(path), "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(
    read: Callable[[Path], object], error: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "file")
    assert error in caught.value.message
    assert caught.value.hint


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="image 1 has no source"):
        of.to_cvat([dataclasses.replace(ONE, source=None)])
    with pytest.raises(UsageError, match="XML cannot have"):
        of.to_cvat([dataclasses.replace(ONE, source="\x01.jpg")])
    with pytest.raises(UsageError, match="models with different classes"):
        of.to_fiftyone([ONE, dataclasses.replace(ONE, label_names=None)])
    with pytest.raises(UsageError, match=r"there is no 'labelstudio' \(did you mean label-studio\?\)"):
        of.write("labelstudio", tmp_path / "x", [ONE])
    (tmp_path / "old.txt").touch()
    with pytest.raises(OutputError, match=r"it is not empty, there is old\.txt"):
        of.write("yolo", tmp_path, [ONE])
