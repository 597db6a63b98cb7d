"""COCO's box measure, by faster-coco-eval, of detections or of COCO results of any tool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from frcnn.console import note
from frcnn.packages import import_package
from frcnn.runtime import Detections
from frcnn.runtime.dataset.annotations import AnnotatedImage, CocoResult, GroundTruth, read_entries, read_json
from frcnn.runtime.dataset.faults import names_shown, reading, tell_names

COCO_DETECTIONS: Final = 100
"""COCO counts so many detections of a class in an image, the best."""

Measures = dict[str, float | None]
"""AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl: from 0 to 1, None where there are no objects."""

_SIZES: Final = ("", "s", "m", "l")  # of objects: all, below 32^2, below 96^2 and from 96^2 square pixels
_ABSENT: Final = -1.0


class Scores(NamedTuple):
    """The measures of all classes together, the mean over those that have objects, and by category id."""

    overall: Measures
    per_class: dict[int, Measures]


def import_coco_eval() -> ModuleType:
    """Return the module ``faster_coco_eval``."""
    return import_package("faster_coco_eval", package="faster-coco-eval", extra="eval", why="measuring accuracy")


def score(
    images: Sequence[AnnotatedImage], detections: Iterable[Detections], categories: Mapping[int, int], **options: int
) -> Scores:
    """Score the detections of each image, with categories by class index; see :func:`score_results`."""
    return score_results(images, coco_results(detections, categories), set(categories.values()), **options)


def coco_results(detections: Iterable[Detections], categories: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return the COCO results of images that are numbered from 1, with categories by class index."""
    return [entry for number, item in enumerate(detections, start=1) for entry in item.to_coco(number, categories)]


def score_results(
    images: Sequence[AnnotatedImage],
    results: list[dict[str, Any]],
    categories: Collection[int],
    *,
    max_detections: int = COCO_DETECTIONS,
) -> Scores:
    """Score COCO results, whose ``image_id`` is the place of the image among ``images``, from 1.

    ``max_detections`` of a class in an image count, the best.
    """
    library = import_coco_eval()
    ids = sorted(categories)
    ground_truth = library.COCO(_document(images, ids))
    evaluation = library.COCOeval_faster(
        ground_truth, ground_truth.loadRes(results), iouType="bbox", print_function=lambda *_: None, extra_calc=False
    )
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU threshold, recall, class, size, detections) and without the second; -1 where there are no objects
    shape = (10, 101, len(ids), len(_SIZES), 3)
    precision = np.asarray(evaluation.eval["precision"], np.float64).reshape(shape)
    recall = np.asarray(evaluation.eval["recall"], np.float64).reshape(shape[:1] + shape[2:])
    return Scores(
        overall=_measures(precision, recall, max_detections),
        per_class={c: _measures(precision[:, :, [k]], recall[:, [k]], max_detections) for k, c in enumerate(ids)},
    )


def difference(model: Measures, eager: Measures) -> Measures:
    """Return the model's measures less eager's; None where either has none."""
    pairs = ((name, value, eager[name]) for name, value in model.items())
    return {name: None if a is None or b is None else a - b for name, a, b in pairs}


def _measures(precision: NDArray[np.float64], recall: NDArray[np.float64], max_detections: int) -> Measures:
    return {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
        **{f"AP{size}": _mean(precision[..., i, -1]) for i, size in enumerate(_SIZES) if size},
        **{f"AR{count}": _mean(recall[..., 0, i]) for i, count in enumerate((1, 10, max_detections))},
        **{f"AR{size}": _mean(recall[..., i, -1]) for i, size in enumerate(_SIZES) if size},
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    present = values[values > _ABSENT]
    return float(present.mean()) if present.size else None


def _document(images: Sequence[AnnotatedImage], ids: Collection[int]) -> dict[str, Any]:
    annotations = (
        msgspec.structs.asdict(item) | {"image_id": number, "bbox": list(item.bbox), "iscrowd": int(bool(item.iscrowd))}
        for number, image in enumerate(images, start=1)
        for item in image.annotations
    )
    return {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        # an id of 0 would mean "no match" to COCO's code
        "annotations": [item | {"id": number} for number, item in enumerate(annotations, start=1)],
        "categories": [{"id": category, "name": str(category)} for category in ids],
    }


_EXPECTED: Final = (
    "expected COCO results: a list of image_id, category_id, bbox as x, y, width, height, and score, with the ids of "
    "the annotations, as frcnn detect --annotations writes them"
)
_CUT: Final = 0.1
"""Results of which none scores less look as if a threshold had cut them, and not the detector's most per image."""


def read_predictions(path: Path, ground_truth: GroundTruth) -> list[dict[str, Any]]:
    """Return COCO results in which ``image_id`` is the place of the image in the ground truth, from 1.

    What lowers the scores unseen is noted: images without results, and results that a threshold has cut.
    """
    places = {image.id: number for number, image in enumerate(ground_truth.images, start=1) if image.id is not None}
    with reading(path, _EXPECTED, option="--predictions"):
        raws = read_json(path, list[msgspec.Raw])
        results, invalid = read_entries("results", raws, CocoResult, places, ground_truth.categories)
        if not invalid:
            first: dict[CocoResult, int] = {}
            for index, item in enumerate(results):
                if first.setdefault(item, index) != index:
                    invalid.append(f"results[{index}] of image {item.image_id!r} is results[{first[item]}] once more")
        if invalid:
            raise ValueError(f"{len(invalid)} of {len(raws)} results are invalid: {names_shown(invalid)}")
    counts = Counter(item.image_id for item in results)
    missed = [image.file_name for image in ground_truth.images if image.annotations and image.id not in counts]
    tell_names(note, missed, "images with objects have no results")
    lowest = min((item.score for item in results), default=0.0)
    if lowest >= _CUT and max(counts.values()) < COCO_DETECTIONS:
        note(f"no result scores below {lowest:g}: cut results lower AP; frcnn detect --score 0 keeps all")
    return [
        msgspec.structs.asdict(item) | {"image_id": places[item.image_id], "bbox": list(item.bbox)} for item in results
    ]
