"""COCO's box measure, by faster-coco-eval."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.accuracy.truth import TruthImage
from frcnn.errors import MissingDependencyError
from frcnn.runtime import Detections

__all__ = ["COCO_DETECTIONS", "Measures", "Scorer", "difference"]

COCO_DETECTIONS: Final = 100
"""The most detections of a class in an image that COCO looks at."""

Measures = dict[str, float | None]
"""AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl: from 0 to 1, None where there are no objects."""

_SIZES: Final = ("", "s", "m", "l")  # of objects: all, below 32^2, below 96^2 and from 96^2 square pixels
_ABSENT: Final = -1.0


class Scorer:
    """Scores detections against one annotated set.

    Args:
        images: the images that were detected in.
        categories: the categories that count, by class index.
        most: detections of a class in an image that are looked at, the best ones.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.
    """

    def __init__(
        self, images: Sequence[TruthImage], categories: Mapping[int, int], *, maximum: int = COCO_DETECTIONS
    ) -> None:
        self._library = _import_faster_coco_eval()
        self._categories = dict(categories)
        self._ids = sorted(set(categories.values()))
        self._max = maximum
        self._truth = self._document(images)

    def score(self, found: Sequence[Detections]) -> tuple[Measures, dict[int, Measures]]:
        """Score what was found, one ``Detections`` an image.

        Returns:
            The measures of all classes together (the mean over those that have objects), and by category id.
        """
        truth = self._library.COCO(self._truth)
        results = self._results(found)
        evaluation = self._library.COCOeval_faster(
            truth, truth.loadRes(results), iouType="bbox", print_function=_say_nothing, extra_calc=False
        )
        evaluation.params.maxDets = [1, 10, self._max]
        evaluation.evaluate()
        evaluation.accumulate()
        # (IoU threshold, recall, class, size, detections) and without the second; -1 where there are no objects
        shape = (10, 101, len(self._ids), len(_SIZES), 3)
        precision = np.asarray(evaluation.eval["precision"], np.float64).reshape(shape)
        recall = np.asarray(evaluation.eval["recall"], np.float64).reshape(shape[:1] + shape[2:])
        per_class = {
            category: self._measures(precision[:, :, k : k + 1], recall[:, k : k + 1])
            for k, category in enumerate(self._ids)
        }
        return self._measures(precision, recall), per_class

    def _measures(self, precision: NDArray[np.float64], recall: NDArray[np.float64]) -> Measures:
        measures = {
            "AP": _mean(precision[..., 0, -1]),
            "AP50": _mean(precision[0, ..., 0, -1]),
            "AP75": _mean(precision[5, ..., 0, -1]),
        }
        measures |= {f"AP{size}": _mean(precision[..., i, -1]) for i, size in enumerate(_SIZES) if size}
        measures |= {f"AR{maximum}": _mean(recall[..., 0, i]) for i, maximum in enumerate((1, 10, self._max))}
        return measures | {f"AR{size}": _mean(recall[..., i, -1]) for i, size in enumerate(_SIZES) if size}

    def _document(self, images: Sequence[TruthImage]) -> dict[str, Any]:
        annotations = [
            {
                "id": 0,
                "image_id": number,
                "category_id": item.category,
                "bbox": list(item.box),
                "area": item.area,
                "iscrowd": int(item.is_crowd),
            }
            for number, image in enumerate(images, start=1)
            for item in image.objects
            if item.category in self._ids
        ]
        for number, annotation in enumerate(annotations, start=1):  # an id of 0 would mean "no match" to COCO's code
            annotation["id"] = number
        return {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": annotations,
            "categories": [{"id": category, "name": str(category)} for category in self._ids],
        }

    def _results(self, found: Sequence[Detections]) -> list[dict[str, Any]]:
        results = []
        for number, detections in enumerate(found, start=1):
            columns = (detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist())
            results += [
                {
                    "image_id": number,
                    "category_id": self._categories[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
                for (x1, y1, x2, y2), score, label in zip(*columns, strict=True)
                if label in self._categories
            ]
        return results


def difference(model: Measures, eager: Measures) -> Measures:
    """Return how much more the model reaches than eager, measure by measure; None where either has none."""
    pairs = ((name, value, eager[name]) for name, value in model.items())
    return {name: None if a is None or b is None else a - b for name, a, b in pairs}


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[values > _ABSENT]
    return float(there.mean()) if there.size else None


def _say_nothing(*_: object) -> None:
    """Take what faster-coco-eval would print."""


def _import_faster_coco_eval() -> Any:
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise MissingDependencyError("faster-coco-eval", extra="bench", why="measuring accuracy") from error
