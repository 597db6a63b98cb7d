"""COCO's measures, held to figures worked out by hand and to a second implementation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from frcnn.benchmarks.accuracy.scoring import Measures, difference, score
from frcnn.runtime import Detections
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation

CAT, DOG = 17, 18
CLASSES = {1: CAT, 2: DOG}
IOUS = np.arange(0.5, 1.0, 0.05)


def annotated(*objects: Annotation) -> AnnotatedImage:
    return AnnotatedImage(file_name="a.png", size=None, annotations=objects)


def item(x: float, y: float, width: float, height: float, category: int = CAT, **more: object) -> Annotation:
    return Annotation(category_id=category, bbox=(x, y, width, height), **{"area": width * height, **more})


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x, y, width, height, score, label."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return Detections(boxes=boxes, scores=table[:, 4], labels=table[:, 5], image_size=(500, 500))


def scored(
    images: Sequence[AnnotatedImage], detections: Sequence[Detections], **options: int
) -> tuple[Measures, dict[int, Measures]]:
    scores = score(images, detections, CLASSES, **options)
    return scores.overall, scores.per_class


def test_identical_boxes_score_1():
    images = [annotated(item(0, 0, 20, 20), item(50, 50, 60, 60, DOG)), annotated(item(10, 10, 200, 100))]
    detections = [found((0, 0, 20, 20, 0.9, 1), (50, 50, 60, 60, 0.3, 2)), found((10, 10, 200, 100, 0.6, 1))]
    overall, per_class = scored(images, detections)
    assert overall == dict.fromkeys(overall, 1.0)
    assert list(overall) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert per_class[DOG]["APm"] == 1.0
    assert per_class[DOG]["APs"] is None, "there is no small dog"


@pytest.mark.parametrize(
    ("shift", "iou"),
    [(10, 0.8182), (14, 0.7544), (16, 0.7241), (20, 0.6667), (25, 0.6), (26, 0.5873), (33, 0.5038), (34, 0.4925)],
)
def test_a_shifted_box_counts_up_to_its_iou(shift, iou):
    """A box of 100 x 100, moved by s to the side, has the IoU (100 - s) / (100 + s)."""
    assert (100 - shift) / (100 + shift) == pytest.approx(iou, abs=5e-5)
    overall, _ = scored([annotated(item(50, 50, 100, 100))], [found((50 + shift, 50, 100, 100, 0.9, 1))])
    reached = sum(iou >= threshold - 1e-9 for threshold in IOUS)
    assert overall["AP"] == pytest.approx(reached / 10)
    assert overall["AP50"] == float(iou >= 0.5)
    assert overall["AP75"] == float(iou >= 0.75)
    assert overall["AR100"] == pytest.approx(reached / 10)


def test_a_false_positive_between_two_hits_lowers_precision():
    """Precision is 1 up to a recall of 0.5, 2/3 beyond: 51 of COCO's 101 recalls at 1, 50 at 2/3."""
    images = [annotated(item(0, 0, 50, 50), item(100, 0, 50, 50))]
    overall, _ = scored(images, [found((0, 0, 50, 50, 0.9, 1), (300, 300, 50, 50, 0.8, 1), (100, 0, 50, 50, 0.7, 1))])
    assert overall["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert overall["AR1"] == 0.5
    assert overall["AR10"] == 1.0


def test_a_class_never_detected_scores_0_and_the_mean_is_over_classes():
    images = [annotated(item(0, 0, 50, 50), item(100, 0, 50, 50, DOG))]
    overall, per_class = scored(images, [found((0, 0, 50, 50, 0.9, 1))])
    assert (per_class[CAT]["AP"], per_class[DOG]["AP"], overall["AP"]) == (1.0, 0.0, 0.5)


def test_a_class_without_objects_is_left_out_of_the_mean():
    overall, per_class = scored(
        [annotated(item(0, 0, 50, 50))], [found((0, 0, 50, 50, 0.9, 1), (0, 0, 50, 50, 0.9, 2))]
    )
    assert overall["AP"] == 1.0
    assert per_class[DOG]["AP"] is None


def test_no_detections_score_0_and_no_objects_are_undefined():
    overall, _ = scored([annotated(item(0, 0, 50, 50))], [found()])
    assert (overall["AP"], overall["AR100"], overall["APs"]) == (0.0, 0.0, None)
    overall, _ = scored([annotated()], [found((0, 0, 50, 50, 0.9, 1))])
    assert set(overall.values()) == {None}


def test_classes_that_are_no_category_do_not_count():
    overall, _ = scored([annotated(item(0, 0, 50, 50))], [found((0, 0, 50, 50, 0.9, 1), (200, 200, 9, 9, 1.0, 3))])
    assert overall["AP"] == 1.0


def test_categories_that_are_no_class_do_not_count():
    overall, per_class = scored(
        [annotated(item(0, 0, 50, 50), item(0, 0, 50, 50, 99))], [found((0, 0, 50, 50, 0.9, 1))]
    )
    assert (overall["AP"], overall["AR100"]) == (1.0, 1.0)
    assert set(per_class) == {CAT, DOG}


def test_two_classes_may_be_one_category():
    images = [annotated(item(0, 0, 50, 50), item(100, 0, 50, 50))]
    detections = [found((0, 0, 50, 50, 0.9, 1), (100, 0, 50, 50, 0.9, 2))]
    overall = score(images, detections, {1: CAT, 2: CAT}).overall
    assert overall["AP"] == 1.0


def test_a_crowd_counts_neither_way():
    crowd = item(200, 200, 200, 200, iscrowd=True)
    inside = [(210, 210, 40, 40, 0.95, 1), (300, 300, 40, 40, 0.94, 1)]
    overall, _ = scored([annotated(item(0, 0, 50, 50), crowd)], [found(*inside, (0, 0, 50, 50, 0.5, 1))])
    assert overall["AP"] == 1.0
    overall, _ = scored([annotated(item(0, 0, 50, 50))], [found(*inside, (0, 0, 50, 50, 0.5, 1))])
    assert overall["AP"] == pytest.approx(1 / 3)


def test_an_object_is_as_large_as_its_mask():
    overall, _ = scored([annotated(item(0, 0, 200, 200, area=900))], [found((0, 0, 200, 200, 0.9, 1))])
    assert (overall["APs"], overall["APl"]) == (1.0, None)


def test_max_detections_limits_each_class():
    objects = [item(20 * (i % 20), 20 * (i // 20), 10, 10) for i in range(120)]
    rows = [(*item.bbox, 0.9 - i / 1000, 1) for i, item in enumerate(objects)]
    assert scored([annotated(*objects)], [found(*rows)])[0]["AR100"] == pytest.approx(100 / 120)
    overall, _ = scored([annotated(*objects)], [found(*rows)], max_detections=300)
    assert overall["AR300"] == overall["AP"] == overall["APs"] == overall["ARs"] == 1.0
    assert (overall["AR1"], overall["AR10"]) == pytest.approx((1 / 120, 10 / 120))
    assert "AR100" not in overall


def test_scoring_is_repeatable_and_prints_nothing(capsys):
    images = [annotated(item(0, 0, 50, 50), item(90, 0, 50, 50, iscrowd=True))]
    detections = [found((5, 0, 50, 50, 0.9, 1), (100, 0, 20, 20, 0.8, 1))]
    assert scored(images, detections) == scored(images, detections)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_differences_are_model_less_eager():
    assert difference({"AP": 0.5, "APs": None}, {"AP": 0.75, "APs": 0.1}) == {"AP": -0.25, "APs": None}


def coco_ap(images: Sequence[AnnotatedImage], detections: Sequence[Detections], label: int, category: int) -> float:
    """AP by COCO's rules, written for the reader: greedy matching by score, crowds last, 101 recalls."""
    values = []
    for threshold in IOUS:
        hits: list[tuple[float, bool]] = []
        total = 0
        for image, of_image in zip(images, detections, strict=True):
            objects = sorted((o for o in image.annotations if o.category_id == category), key=lambda o: o.iscrowd)
            total += sum(not o.iscrowd for o in objects)
            taken = [False] * len(objects)
            rows = np.flatnonzero(of_image.labels == label)
            for row in rows[np.argsort(-of_image.scores[rows], kind="stable")]:
                best, partner = min(threshold, 1 - 1e-10), None
                for i, item in enumerate(objects):
                    if taken[i] and not item.iscrowd:
                        continue
                    if partner is not None and not objects[partner].iscrowd and item.iscrowd:
                        break
                    overlap = iou_of(of_image.boxes[row].astype(np.float64), item)
                    if overlap >= best:
                        best, partner = overlap, i
                if partner is not None:
                    taken[partner] = True
                if partner is None or not objects[partner].iscrowd:
                    hits.append((-float(of_image.scores[row]), partner is not None))
        hits.sort(key=lambda hit: hit[0])
        is_hit = np.array([hit for _, hit in hits], bool)
        recall = np.cumsum(is_hit) / total
        precision = np.cumsum(is_hit) / (np.arange(len(hits)) + 1)
        values += [precision[recall >= r - 1e-12].max(initial=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(values))


def iou_of(box: np.ndarray, item: Annotation) -> float:
    x, y, width, height = item.bbox
    over_x = min(box[2], x + width) - max(box[0], x)
    over_y = min(box[3], y + height) - max(box[1], y)
    overlap = max(0.0, over_x) * max(0.0, over_y)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return overlap / (area if item.iscrowd else area + width * height - overlap)


@pytest.mark.parametrize("seed", range(4))
def test_a_second_implementation_agrees_on_random_images(seed):
    rng = np.random.default_rng(seed)
    images, detections = [], []
    for _ in range(12):
        objects, rows = [], []
        for _ in range(int(rng.integers(0, 7))):
            x, y, width, height = rng.uniform(0, 300), rng.uniform(0, 300), *rng.uniform(20, 120, 2)
            category = int(rng.choice([CAT, DOG]))
            objects.append(item(x, y, width, height, category, iscrowd=bool(rng.random() < 0.15)))
            for _ in range(int(rng.integers(0, 3))):
                moved = rng.normal(0, 6, 4)
                label = 1 + int(rng.random() < 0.5) if rng.random() < 0.1 else 1 + (category == DOG)
                rows.append((x + moved[0], y + moved[1], width + moved[2], height + moved[3], rng.random(), label))
        rows += [
            (*rng.uniform(0, 300, 2), *rng.uniform(10, 90, 2), rng.random(), int(rng.integers(1, 3)))
            for _ in range(int(rng.integers(0, 4)))
        ]
        images.append(annotated(*objects))
        detections.append(found(*sorted(rows, key=lambda row: -row[4])))
    overall, per_class = scored(images, detections)
    expected = {category: coco_ap(images, detections, label, category) for label, category in CLASSES.items()}
    assert {category: per_class[category]["AP"] for category in expected} == pytest.approx(expected, abs=1e-9)
    assert overall["AP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert 0.1 < overall["AP"] < 0.9
