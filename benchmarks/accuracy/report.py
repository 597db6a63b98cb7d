"""What an evaluation came to: the document for ``--json``, and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from frcnn.benchmarks.accuracy.class_map import ClassMap
from frcnn.benchmarks.accuracy.collecting import Collected
from frcnn.benchmarks.accuracy.scoring import Measures, Scorer, difference
from frcnn.benchmarks.accuracy.truth import Truth
from frcnn.console import show_table

__all__ = ["SCHEMA_VERSION", "Evaluation", "evaluate", "installed_versions"]

SCHEMA_VERSION: Final = 1

_PACKAGES: Final = ("frcnn", "faster-coco-eval", "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision")
_UNDEFINED: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one of the two reaches.

    Attributes:
        overall: over all classes.
        per_class: by category id.
    """

    overall: Measures
    per_class: dict[int, Measures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation.

    Attributes:
        truth: the annotated set.
        collected: what was found.
        categories: the evaluated categories' ids.
        model: what the model reaches.
        eager: what eager reaches, where it was asked.
        limit: by how much the model's AP may fall below eager's, or None.
    """

    truth: Truth
    collected: Collected
    categories: tuple[int, ...]
    model: Side
    eager: Side | None
    limit: float | None

    @property
    def difference(self) -> Measures | None:
        """The model's measures less eager's."""
        return None if self.eager is None else difference(self.model.overall, self.eager.overall)

    @property
    def passed(self) -> bool | None:
        """Whether the model is within the limit; None where there is none."""
        if self.limit is None or self.difference is None:
            return None
        fall = self.difference["AP"]
        return fall is not None and -fall <= self.limit

    def objects(self, category: int | None = None) -> int:
        """Return how many objects count in the images that were used, of one category or of all."""
        wanted = self.categories if category is None else (category,)
        images = (answer.truth for answer in self.collected.answers)
        return sum(not o.is_crowd and o.category in wanted for image in images for o in image.objects)

    def as_json(self, *, model: Mapping[str, Any], eager: Mapping[str, Any] | None, command: str) -> dict[str, Any]:
        """Return the document.

        Args:
            model: what is said of the model file besides.
            eager: what is said of the checkpoint besides.
            command: the command line.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            **self.model.overall,
            "per_class": self._per_class(self.model),
            "model": dict(model),
            "eager": None
            if self.eager is None
            else {**(eager or {}), **self.eager.overall, "per_class": self._per_class(self.eager)},
            "difference": self.difference,
            "limit": self.limit,
            "passed": self.passed,
            "images": len(self.collected.answers),
            "objects": self.objects(),
            "annotations": self.truth.source,
            "skipped": self.collected.skipped,
            "partial": self.collected.is_partial,
            "versions": installed_versions(),
            "command": command,
        }

    def show(self) -> None:
        """Print the measures, and those of each class."""
        columns = tuple(self.model.overall)
        rows = [("model", *map(_text, self.model.overall.values()))]
        if self.eager is not None and self.difference is not None:
            rows.insert(0, ("eager torchvision", *map(_text, self.eager.overall.values())))
            rows.append(("difference", *map(_signed, self.difference.values())))
        images = f"{len(self.collected.answers)} images, {self.objects()} objects"
        show_table(f"accuracy by COCO's box measure: {images}", ("", *columns), rows)
        heads = ("class", "objects", "AP", "AP50", "AP75", *(("AP of eager", "difference") if self.eager else ()))
        show_table("by class", heads, [self._row(category) for category in self.categories if self.objects(category)])

    def _row(self, category: int) -> tuple[str, ...]:
        measures = self.model.per_class[category]
        cells = [self.truth.categories[category], str(self.objects(category))]
        cells += [_text(measures[name]) for name in ("AP", "AP50", "AP75")]
        if self.eager is not None:
            eager = self.eager.per_class[category]
            cells += [_text(eager["AP"]), _signed(difference(measures, eager)["AP"])]
        return tuple(cells)

    def _per_class(self, side: Side) -> dict[str, Any]:
        """Return a side's measures by the category's name; by name and id where two have one name."""
        names = [self.truth.categories[category] for category in self.categories]
        found = {}
        for category, name in zip(self.categories, names, strict=True):
            key = name if names.count(name) == 1 else f"{name} ({category})"
            found[key] = {"id": category, "objects": self.objects(category), **side.per_class[category]}
        return found


def evaluate(truth: Truth, classes: ClassMap, collected: Collected, *, maximum: int, limit: float | None) -> Evaluation:
    """Score what was found against the annotations of the very images that it was found in.

    Args:
        truth: the annotated set.
        classes: which class is which category.
        collected: what was found.
        maximum: detections of a class in an image that are looked at.
        limit: by how much the model's AP may fall below eager's.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.
    """
    answers = collected.answers
    scorer = Scorer([answer.truth for answer in answers], classes.categories, maximum=maximum)
    model_overall, model_per_class = scorer.score([answer.model for answer in answers])
    of_eager = [answer.eager for answer in answers if answer.eager is not None]
    eager = None
    if of_eager:
        overall, per_class = scorer.score(of_eager)
        eager = Side(overall=overall, per_class=per_class)
    return Evaluation(
        truth=truth,
        collected=collected,
        categories=tuple(sorted(set(classes.categories.values()))),
        model=Side(overall=model_overall, per_class=model_per_class),
        eager=eager,
        limit=limit,
    )


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that have a say in the figures."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _text(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:+.4f}"
