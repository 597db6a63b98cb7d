"""Read COCO results of any tool, checked against the annotations that they are for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec

from frcnn.benchmarks.accuracy.scoring import COCO_DETECTIONS
from frcnn.console import note
from frcnn.runtime.dataset.annotations import CocoResult, GroundTruth, read_entries, read_json
from frcnn.runtime.dataset.faults import names_shown, reading, tell_names

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
