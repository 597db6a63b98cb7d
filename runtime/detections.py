"""Detections of one image."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import UsageError
from frcnn.runtime.dependencies import import_supervision
from frcnn.spec import Size

ClassFilter = Iterable[str | int]
"""Class names or indices (background 0 excluded)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """The objects detected in one image, in descending order of score. The arrays are read-only copies.

    Attributes:
        boxes: ``(M, 4)`` float32 ``(x1, y1, x2, y2)`` in pixels of the original image. The origin is the upper left
            corner of the first pixel, not its centre; ``x2`` and ``y2`` are the right and bottom edges.
        scores: ``(M,)`` float32 in [0, 1].
        labels: ``(M,)`` int64 class indices. 0 is the background and never occurs.
        image_size: ``(height, width)`` of the original image in pixels.
        source: The path of the image, or None if it was not a file.
        label_names: The names of all classes of the model, index 0 the background, or None if it has no names.

    Raises:
        UsageError: The arrays' shapes do not match.

    Example:
        >>> detections = detector(["street.jpg"])[0]
        >>> len(detections), detections.class_names
        (2, ['car', 'person'])
        >>> people = detections.filter(score=0.7, classes=["person"])
        >>> x1, y1, x2, y2 = people.boxes[0]
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    image_size: Size
    source: str | None = None
    label_names: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self.scores)
        for name, dtype, shape in (
            ("boxes", np.float32, (count, 4)),
            ("scores", np.float32, (count,)),
            ("labels", np.int64, (count,)),
        ):
            array = np.array(getattr(self, name), dtype=dtype)
            if array.shape != shape:
                raise UsageError(f"Detections: expected {name} of shape {shape}, got {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.scores)

    @property
    def class_names(self) -> list[str]:
        """The class name of each object; the index as text if the model has no names."""
        names = self.label_names
        return [str(label) if names is None else names[label] for label in self.labels.tolist()]

    def filter(self, *, score: float | None = None, classes: ClassFilter | None = None) -> Detections:
        """Return the objects of given classes with a minimum score.

        Args:
            score: Minimum score in [0, 1]; None keeps all.
            classes: Class names or indices; None keeps all.

        Raises:
            UsageError: The model has no such class, or the score is outside [0, 1].
        """
        keep = np.ones(len(self), bool)
        if score is not None:
            keep &= self.scores >= np.float32(checked_score(score))
        if classes is not None:
            wanted = resolve_classes(classes, self.label_names)
            keep &= np.isin(self.labels, np.array(sorted(wanted), np.int64))
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary per object: ``box`` [x1, y1, x2, y2], ``score``, ``label`` and ``class_name``."""
        columns = zip(self.boxes, self.scores, self.labels.tolist(), self.class_names, strict=True)
        return [
            {"box": [_shortest(side) for side in box], "score": _shortest(score), "label": label, "class_name": name}
            for box, score, label, name in columns
        ]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return COCO results: ``image_id``, ``category_id`` (the label), ``bbox`` [x, y, width, height], ``score``.

        Args:
            image_id: The image's number in the data set.
        """
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "bbox": [_shortest(side) for side in box],
                "score": _shortest(score),
            }
            for box, score, label in zip(corners, self.scores, self.labels.tolist(), strict=True)
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections`` with the class names under ``data["class_name"]``.

        Raises:
            MissingDependencyError: The package ``supervision`` is not installed.
        """
        supervision = import_supervision()
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array(self.class_names, dtype=str)},
        )


def checked_score(score: float) -> float:
    """Return a score threshold; raise ``UsageError`` outside [0, 1]."""
    if not 0 <= score <= 1:
        raise UsageError(f"score: expected a number from 0 to 1, got {score}")
    return score


def resolve_classes(classes: ClassFilter, label_names: Sequence[str] | None) -> frozenset[int]:
    """Return the class indices of class names or indices.

    A name selects every class that has it; digits that are not a class name are an index.

    Args:
        classes: names or indices.
        label_names: the model's names, index 0 the background, or None.

    Raises:
        UsageError: the model has no such name or index, or ``classes`` is a single string.
    """
    if isinstance(classes, str):
        raise UsageError(f"classes: expected a list of names or indices, got the text {classes!r}")
    return frozenset(index for wanted in classes for index in _indices(wanted, label_names))


def _indices(wanted: str | int, label_names: Sequence[str] | None) -> list[int]:
    if isinstance(wanted, str) and label_names is not None:
        found = [index for index, name in enumerate(label_names) if name == wanted and index > 0]
        if not found and not wanted.isdecimal():
            known = ", ".join(label_names[1:])
            raise UsageError(f"classes: the model does not know {wanted!r}", hint=f"it knows: {known}")
        if found:
            return found
    try:
        index = int(wanted) if isinstance(wanted, str) else operator.index(wanted)
    except (TypeError, ValueError):
        raise UsageError(
            f"classes: expected a class index, got {wanted!r}", hint="this model's classes have no names"
        ) from None
    if index < 1 or (label_names is not None and index >= len(label_names)):
        known = "1 or more" if label_names is None else f"1 to {len(label_names) - 1}"
        raise UsageError(f"classes: expected an index of {known}, got {index}", hint="index 0 is the background")
    return [index]


def _shortest(value: np.float32) -> float:
    """Return the shortest decimal that rounds to this float32 (0.3, not 0.30000001192092896)."""
    return float(str(value))
