"""The results of an evaluation: the document for ``--json``, and the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Self

from frcnn.benchmarks.accuracy.images import Collected
from frcnn.benchmarks.accuracy.scoring import Measures, Scores, coco_results, difference, score_results
from frcnn.console import show_table
from frcnn.packages import installed_version
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth, count_objects
from frcnn.runtime.dataset.class_map import ClassMap

SCHEMA_VERSION: Final = 1

_PACKAGES: Final = ("frcnn", "faster-coco-eval", "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision")


class Evaluation:
    """The scores of the images of a set that were used, against their annotations.

    ``results`` are COCO's, and eager's beside them; their ``image_id`` is the place among ``images``, from 1. ``limit``
    is by how much the model's AP may fall below eager's. ``passed`` is None without it, ``difference`` without eager.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        images: Sequence[AnnotatedImage],
        categories: Iterable[int],
        results: list[dict[str, Any]],
        *,
        eager: list[dict[str, Any]] | None = None,
        max_detections: int,
        limit: float | None = None,
        skipped: Mapping[str, str] = MappingProxyType({}),
        is_partial: bool = False,
    ) -> None:
        self.ground_truth, self.images, self.limit = ground_truth, images, limit
        self.categories, self.skipped, self.is_partial = sorted(set(categories)), skipped, is_partial
        scored = partial(score_results, images, categories=self.categories, max_detections=max_detections)
        self.model = scored(results)
        self.eager = None if eager is None else scored(eager)
        self.difference = None if self.eager is None else difference(self.model.overall, self.eager.overall)
        self.passed: bool | None = None
        if limit is not None and self.difference is not None:
            change = self.difference["AP"]
            self.passed = change is not None and -change <= limit

    @classmethod
    def of_collected(cls, ground_truth: GroundTruth, classes: ClassMap, collected: Collected, **options: Any) -> Self:
        """Evaluate the detections in images; ``options`` are those of the class."""
        categories = classes.categories
        eager = [image.eager for image in collected.images if image.eager is not None]
        return cls(
            ground_truth,
            [image.ground_truth for image in collected.images],
            categories.values(),
            coco_results([image.model for image in collected.images], categories),
            eager=coco_results(eager, categories) if eager else None,
            skipped=collected.skipped,
            is_partial=collected.is_partial,
            **options,
        )

    def objects(self, *categories: int, crowds: bool = False) -> int:
        """Return how many objects of some categories, or of all, count in the images used; or crowds, which do not."""
        return count_objects(self.images, categories or self.categories, crowds=crowds)

    def as_json(self, *, model: Mapping[str, Any], eager: Mapping[str, Any] | None, command: str) -> dict[str, Any]:
        """Return the document, with descriptions of the model file and of the checkpoint, and the command line."""
        versions = {name: found for name in _PACKAGES if (found := installed_version(name))}
        return {
            "schema_version": SCHEMA_VERSION,
            **self._scores_json(self.model),
            "model": dict(model),
            "eager": None if self.eager is None else {**(eager or {}), **self._scores_json(self.eager)},
            "difference": self.difference,
            "limit": self.limit,
            "passed": self.passed,
            "images": len(self.images),
            "objects": self.objects(),
            "crowd_or_difficult": self.objects(crowds=True),
            "annotations": self.ground_truth.source,
            "invalid": self.ground_truth.invalid,
            "skipped": dict(self.skipped),
            "partial": self.is_partial,
            "versions": versions,
            "command": command,
        }

    def show(self, *, eager: str) -> None:
        """Print the measures, and those of each class; ``eager`` is what the checkpoint's model is called."""
        rows = [("model", *_cells(self.model.overall))]
        if self.eager is not None and self.difference is not None:
            rows.insert(0, (eager, *_cells(self.eager.overall)))
            rows.append(("difference", *_cells(self.difference, sign="+")))
        crowds = self.objects(crowds=True)
        uncounted = f" (and {crowds} crowd or difficult, which do not count)" if crowds else ""
        images = f"{len(self.images)} images, {self.objects()} objects{uncounted}"
        show_table(f"accuracy by COCO's box measure: {images}", ("", *self.model.overall), rows)
        columns = ("class", "AP", *(("difference", "AP of eager") if self.eager else ()), "AP50", "AP75", "objects")
        show_table("by class", columns, [self._row(category) for category in self.categories if self.objects(category)])

    def _row(self, category: int) -> tuple[str, ...]:
        model = self.model.per_class[category]
        against: tuple[str, ...] = ()
        if self.eager is not None:
            eager = self.eager.per_class[category]
            against = (_cells(difference(model, eager), sign="+")[0], _cells(eager)[0])
        ap, *others = _cells(model)[:3]
        return self.ground_truth.categories[category], ap, *against, *others, str(self.objects(category))

    def _scores_json(self, scores: Scores) -> dict[str, Any]:
        """Return measures, of classes by the category's name; by name and id where two have one name."""
        names = [self.ground_truth.categories[category] for category in self.categories]
        per_class = {
            name if names.count(name) == 1 else f"{name} ({category})": {
                "id": category,
                "objects": self.objects(category),
                **scores.per_class[category],
            }
            for category, name in zip(self.categories, names, strict=True)
        }
        return {**scores.overall, "per_class": per_class}


def _cells(measures: Measures, sign: str = "") -> tuple[str, ...]:
    return tuple("-" if value is None else f"{value:{sign}.4f}" for value in measures.values())
