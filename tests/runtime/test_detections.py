"""frcnn.runtime.detections."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frcnn.errors import MissingDependencyError, UsageError
from frcnn.runtime import Detection, Detections
from frcnn.runtime.detections import Rows, resolve_classes

NAMES = ("__background__", "cat", "dog", "cat")


def make(count: int = 3, names: tuple[str, ...] | None = NAMES) -> Detections:
    return Detections(
        boxes=np.array([[1, 2, 11, 22], [0.1, 0.2, 0.3, 0.4], [5, 5, 6, 6]], np.float32)[:count],
        scores=np.array([0.9, 0.5, 0.3], np.float32)[:count],
        labels=np.array([1, 2, 3])[:count],
        image_size=(48, 64),
        source="a.jpg",
        label_names=names,
    )


def test_shapes_types_and_names() -> None:
    found = make()
    assert (found.boxes.shape, found.boxes.dtype) == ((3, 4), np.float32)
    assert (found.scores.shape, found.scores.dtype) == ((3,), np.float32)
    assert (found.labels.shape, found.labels.dtype) == ((3,), np.int64)
    assert found.class_names == ["cat", "dog", "cat"]
    assert make(names=None).class_names == ["1", "2", "3"]
    assert len(found) == 3


def test_is_frozen_and_owns_its_arrays() -> None:
    boxes = np.zeros((1, 4), np.float32)
    found = Detections(boxes=boxes, scores=np.ones(1), labels=np.ones(1), image_size=(1, 1))
    boxes[:] = 7
    assert not found.boxes.any()
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.source = "b"  # type: ignore[misc]


def test_mismatched_arrays_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected boxes of shape \(2, 4\), got \(1, 4\)"):
        Detections(boxes=np.zeros((1, 4)), scores=np.zeros(2), labels=np.zeros(2), image_size=(1, 1))


def test_filter_by_score_and_class() -> None:
    found = make()
    assert found.filter(score=0.5).scores.tolist() == [np.float32(0.9), 0.5]  # 0.5 itself stays
    assert found.filter(classes=["cat"]).labels.tolist() == [1, 3]  # both classes of that name
    assert found.filter(classes=[2, "cat"], score=0.4).labels.tolist() == [1, 2]
    assert len(found.filter(classes=[])) == 0
    assert len(found.filter()) == 3
    kept = found.filter(score=1)
    assert (kept.boxes.shape, kept.image_size, kept.source) == ((0, 4), (48, 64), "a.jpg")


@given(st.lists(st.floats(0, 1, width=32), max_size=20), st.floats(0, 1))
def test_filter_keeps_exactly_what_scores_enough(scores: list[float], minimum: float) -> None:
    values = np.array(sorted(scores, reverse=True), np.float32)
    count = len(values)
    found = Detections(boxes=np.zeros((count, 4)), scores=values, labels=np.ones(count), image_size=(1, 1))
    kept = found.filter(score=minimum).scores
    assert kept.tolist() == [value for value in values if value >= np.float32(minimum)]


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_filter_refuses_odd_scores(score: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        make().filter(score=score)


def test_unknown_classes_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"does not know 'bird' \(it knows: cat, dog, cat\)"):
        resolve_classes(["bird"], NAMES)
    with pytest.raises(UsageError, match="index of 1 to 3, got 4"):
        resolve_classes([4], NAMES)
    with pytest.raises(UsageError, match="background"):
        resolve_classes([0], NAMES)
    with pytest.raises(UsageError, match="does not know '__background__'"):
        resolve_classes(["__background__"], NAMES)
    with pytest.raises(UsageError, match="expected a list"):
        resolve_classes("cat", NAMES)
    with pytest.raises(UsageError, match="expected a class index, got 'cat'"):
        resolve_classes(["cat"], None)
    with pytest.raises(UsageError, match=r"expected a class index, got 1\.5"):
        resolve_classes([1.5], NAMES)  # type: ignore[list-item]
    assert resolve_classes(["2", "cat"], NAMES) == {1, 2, 3}
    assert resolve_classes(["2"], ("__background__", "2", "3")) == {1}  # a name before an index
    with pytest.raises(UsageError, match="index of 1 to 3, got 9"):
        resolve_classes(["9"], NAMES)
    assert resolve_classes(["7", 9, np.int64(2)], None) == {2, 7, 9}  # type: ignore[list-item]


def test_to_dicts() -> None:
    assert make(2).to_dicts() == [
        {"box": [1.0, 2.0, 11.0, 22.0], "score": 0.9, "label": 1, "class_name": "cat"},
        {"box": [0.1, 0.2, 0.3, 0.4], "score": 0.5, "label": 2, "class_name": "dog"},
    ]


def test_to_coco() -> None:
    first, second = make(2).to_coco(42)
    assert first == {"image_id": 42, "category_id": 1, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.9}
    assert second["bbox"] == pytest.approx([0.1, 0.2, 0.2, 0.2])
    assert make(0).to_coco(1) == []


def test_to_supervision() -> None:
    pytest.importorskip("supervision")
    converted = make().to_supervision()
    np.testing.assert_array_equal(converted.xyxy, make().boxes)
    np.testing.assert_array_equal(converted.confidence, make().scores)
    np.testing.assert_array_equal(converted.class_id, [1, 2, 3])
    assert converted.data["class_name"].tolist() == ["cat", "dog", "cat"]
    assert len(make(0).to_supervision()) == 0


def test_from_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    place: dict[str, Any] = {"image_size": (48, 64), "source": "a.jpg"}
    back = Detections.from_supervision(make().to_supervision()[[2, 0, 1]], label_names=NAMES, **place)
    assert back.to_json() == make().to_json()
    assert len(Detections.from_supervision(supervision.Detections.empty(), **place)) == 0
    unscored = supervision.Detections(xyxy=np.array([[1, 2, 3, 4]]), class_id=np.array([3]))
    assert Detections.from_supervision(unscored, **place).to_dicts()[0]["score"] == 1
    with pytest.raises(UsageError, match=r"ids of 1 to 2, got 3 to 3 \(where they are counted from 0"):
        Detections.from_supervision(unscored, label_names=NAMES[:3], **place)
    unscored.class_id -= 3
    with pytest.raises(UsageError, match="ids of 1 or more, got 0 to 0"):
        Detections.from_supervision(unscored, **place)
    unscored.class_id = None
    with pytest.raises(UsageError, match="have no class_id"):
        Detections.from_supervision(unscored, **place)


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"frcnn\[supervision\]"):
        make().to_supervision()


def test_an_integer_and_iteration_give_objects() -> None:
    found = make()
    assert found[1] == Detection(box=(0.1, 0.2, 0.3, 0.4), score=0.5, label=2, class_name="dog")
    assert found[-1] == found[np.int64(2)] == list(found)[2]
    assert [one.class_name for one in found] == found.class_names
    assert found[found.scores.argmax()].score == 0.9
    assert make(names=None)[0].class_name == "1"
    with pytest.raises(IndexError, match="3 is out of bounds"):
        found[3]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (slice(1), [1]),
        (slice(None, None, -1), [3, 2, 1]),
        ([2, 0], [3, 1]),
        ((1,), [2]),
        ([], []),
        (np.array([1]), [2]),
        ([True, False, True], [1, 3]),
        (np.array([False, True, False]), [2]),
        (np.zeros(3, bool), []),
    ],
)
def test_slices_indices_and_masks_give_detections(rows: Rows, labels: list[int]) -> None:
    found = make()
    part = found[rows]
    assert isinstance(part, Detections)
    assert part.labels.tolist() == labels
    assert part.boxes.tolist() == [found.boxes[label - 1].tolist() for label in labels]
    assert part.scores.tolist() == [found.scores[label - 1] for label in labels]
    assert (part.image_size, part.source, part.label_names) == (found.image_size, found.source, found.label_names)
    assert bool(part) == bool(labels)


@pytest.mark.parametrize(
    "index", ["score", 1.0, [0.5], [3], [True], np.ones((3, 1), bool), np.zeros((1, 2), int), None]
)
def test_other_indices_are_refused(index: Any) -> None:
    with pytest.raises(IndexError):
        make()[index]


def test_a_tensor_is_an_index_or_a_mask() -> None:
    torch = pytest.importorskip("torch")
    assert make()[torch.tensor([2])].labels.tolist() == [3], "the one that is left of non-maximum suppression"
    assert make()[torch.tensor([True, True, False])].labels.tolist() == [1, 2]


def test_to_json() -> None:
    assert json.loads(make(1).to_json()) == {"source": "a.jpg", "image_size": [48, 64], "objects": make(1).to_dicts()}
    odd = dataclasses.replace(make(0), source="caf\udce9.jpg", image_size=(1, 1))
    assert odd.to_json().encode("ascii")
    assert json.loads(odd.to_json()) == {"source": "caf\udce9.jpg", "image_size": [1, 1], "objects": []}


def test_to_dataframe() -> None:
    pandas = pytest.importorskip("pandas")
    found, columns = make(2), ["x1", "y1", "x2", "y2", "score", "label", "class_name", "source"]
    frame = found.to_dataframe()
    assert list(frame.columns) == columns
    np.testing.assert_array_equal(frame[columns[:4]], found.boxes)
    assert frame["score"].tolist() == found.scores.tolist()
    assert (frame["label"].tolist(), frame["class_name"].tolist()) == ([1, 2], ["cat", "dog"])
    assert frame["source"].tolist() == ["a.jpg"] * 2
    frame.loc[0, "x1"] = 9
    assert found.boxes[0, 0] == 1, "the frame has its own numbers"
    empty = make(0).to_dataframe()
    assert empty.dtypes.equals(frame.dtypes)
    assert len(pandas.concat([frame, empty, frame], ignore_index=True)) == 4
    assert dataclasses.replace(found, source=None).to_dataframe()["source"].isna().all()


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"'pandas'.*pip install 'frcnn\[pandas\]'"):
        make().to_dataframe()


@pytest.mark.slow
def test_a_type_checker_knows_what_comes_out(tmp_path: Path) -> None:
    code = """
import numpy as np
from PIL import Image
from frcnn.runtime import Detections

def look(found: Detections, pixels: np.typing.NDArray[np.uint8], image: Image.Image) -> None:
    reveal_type(found[0])
    reveal_type(found[np.argmax(found.scores)])
    reveal_type(found[1:])
    reveal_type(found[[2, 0]])
    reveal_type(found[found.scores > 0.5])
    reveal_type(found[np.argsort(found.scores)])
    reveal_type([one.score for one in found])
    reveal_type(found.draw())
    reveal_type(found.draw("a.jpg"))
    reveal_type(found.draw(image))
    reveal_type(found.draw(pixels))
"""
    (tmp_path / "mine.py").write_text(code)
    options = ["--config-file=", "--strict", "--cache-dir", str(tmp_path / "cache"), "mine.py"]
    environment = os.environ | {"MYPYPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    mine = [line for line in done.stdout.splitlines() if line.startswith("mine.py")]
    kinds = [re.sub(r"\w+\.", "", line.partition('"')[2].removesuffix('"')) for line in mine]
    assert kinds == [
        *["Detection"] * 2,
        *["Detections"] * 4,
        "list[float]",
        *["Image"] * 3,
        "ndarray[tuple[Any, ...], dtype[unsignedinteger[_8Bit]]]",
    ], done.stdout + done.stderr
