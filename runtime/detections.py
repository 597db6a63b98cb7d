"""Detections of one image."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frcnn.errors import UsageError, did_you_mean
from frcnn.runtime.dependencies import import_pandas, import_supervision
from frcnn.spec import Size

if TYPE_CHECKING:
    from pandas import DataFrame

    from frcnn.runtime.images.image import ChannelOrder

ClassFilter = Iterable[str | int]
"""Class names or indices (background 0 excluded)."""
Rows = slice | Sequence[int] | Sequence[bool] | NDArray[np.bool_] | NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One object of ``Detections``.

    Attributes:
        box: ``(x1, y1, x2, y2)`` in pixels of the original image.
        score: In [0, 1].
        label: The class index, 1 or more.
        class_name: The class name; the index as text if the model has no names.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    class_name: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """The objects detected in one image, in descending order of score. The arrays are read-only copies.

    It is indexed as an array or a list is: an integer gives one object, a :class:`Detection`, and so does iteration; a
    slice, indices, or a mask of ``M`` booleans give ``Detections`` of those objects, in that order. (What supervision
    gives for an integer, ``Detections`` of length 1, is ``detections[[0]]``.) Without objects it is false. A notebook
    shows it as a table, under the drawn image if that is a file.

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
        >>> large = detections[(detections.boxes[:, 2] - detections.boxes[:, 0]) > 100]
        >>> for one in detections:
        ...     print(one.class_name, one.score, one.box)
        >>> detections.save("annotated.jpg")
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
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return map(self._object, range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, index: Rows) -> Detections: ...

    def __getitem__(self, index: int | np.integer[Any] | Rows) -> Detection | Detections:
        """Return one object, or those of a slice, of indices or of a mask.

        Raises:
            IndexError: There is no such object, or the mask has another length.
        """
        if isinstance(index, int | np.integer):
            return self._object(int(index))
        rows = index if isinstance(index, slice) else np.asarray(index, None if np.size(index) else np.int64)
        if not isinstance(rows, slice) and rows.ndim != 1:
            raise IndexError(f"expected an integer, a slice, or indices or a mask of one dimension, got {rows.shape}")
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    @property
    def class_names(self) -> list[str]:
        """The class name of each object; the index as text if the model has no names."""
        return [self._name(label) for label in self.labels.tolist()]

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
        return self[keep]

    @overload
    def draw(  # type: ignore[overload-overlap]  # the first that fits is meant
        self, image: NDArray[Any], *, channel_order: ChannelOrder = "rgb"
    ) -> NDArray[np.uint8]: ...

    @overload
    def draw(self, image: object = None, *, channel_order: ChannelOrder = "rgb") -> Image.Image: ...

    def draw(self, image: object = None, *, channel_order: ChannelOrder = "rgb") -> Image.Image | NDArray[np.uint8]:
        """Return the image with boxes, names and scores drawn on it; the image handed in is not changed.

        Args:
            image: The image that was detected in, of any kind that a ``Detector`` takes in host memory, read as there.
                Default: the file ``source``.
            channel_order: Of an array or a tensor; ``"bgr"`` of OpenCV's.

        Returns:
            A PIL image, which a notebook shows; of a NumPy array a NumPy array ``(H, W, 3)`` uint8 of the same channel
            order. One whose sides are below 320 pixels is enlarged by a whole factor, so that its text can be read.

        Raises:
            ImageError: The image cannot be used.
            ImageSizeError: It does not have the size ``image_size``.
            UsageError: No image was handed in and ``source`` is no file.
        """
        from frcnn.runtime.results.display import draw_on

        drawn = draw_on(self, image, channel_order)
        if not isinstance(image, np.ndarray):
            return Image.fromarray(drawn)
        return np.ascontiguousarray(drawn[:, :, ::-1]) if channel_order == "bgr" else drawn

    plot = draw  # as ultralytics calls it

    def save(self, path: str | os.PathLike[str], image: object = None, *, channel_order: ChannelOrder = "rgb") -> None:
        """Write the image that :meth:`draw` returns to a file, whole or not at all.

        Args:
            path: Its suffix chooses PNG, JPEG or WebP.
            image: As of :meth:`draw`.
            channel_order: Likewise; the file has its colours right either way.

        Raises:
            OutputError: The file cannot be written.
            UsageError: The suffix is another; and what :meth:`draw` raises.
        """
        from frcnn.runtime.results.display import draw_on, image_format, write_image

        image_format(Path(path))  # refused before the work
        write_image(Path(path), draw_on(self, image, channel_order))

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary per object: ``box`` [x1, y1, x2, y2], ``score``, ``label`` and ``class_name``."""
        return [asdict(one) | {"box": list(one.box)} for one in self]

    def to_json(self) -> str:
        """Return JSON text: ``source``, ``image_size`` [height, width] and ``objects``, as of :meth:`to_dicts`."""
        content = {"source": self.source, "image_size": self.image_size, "objects": self.to_dicts()}
        return json.dumps(content, allow_nan=False)

    def to_dataframe(self) -> DataFrame:
        """Return a row per object: ``x1``, ``y1``, ``x2``, ``y2``, ``score``, ``label``, ``class_name`` and ``source``.

        ``pandas.concat`` puts the frames of several images into one.

        Raises:
            MissingDependencyError: The package ``pandas`` is not installed.
        """
        pandas = import_pandas()
        sides = dict(zip(("x1", "y1", "x2", "y2"), self.boxes.T, strict=True))
        names = pandas.Series(self.class_names, dtype=str)
        source = pandas.Series([self.source] * len(self), dtype=object if self.source is None else str)
        columns = {**sides, "score": self.scores, "label": self.labels, "class_name": names, "source": source}
        return pandas.DataFrame(columns)

    def to_coco(self, image_id: int | str, categories: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Return COCO results: ``image_id``, ``category_id``, ``bbox`` [x, y, width, height], ``score``.

        Args:
            image_id: The image's id in the data set.
            categories: The data set's category id of each label; objects of other labels are left out. None: the label.
        """
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": label if categories is None else categories[label],
                "bbox": [_shortest(side) for side in box],
                "score": _shortest(score),
            }
            for box, score, label in zip(corners, self.scores, self.labels.tolist(), strict=True)
            if categories is None or label in categories
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

    @classmethod
    def from_supervision(
        cls,
        detections: Any,
        *,
        image_size: Size,
        source: str | None = None,
        label_names: tuple[str, ...] | None = None,
    ) -> Detections:
        """Return boxes, scores (1 where there are none) and classes of ``supervision.Detections``.

        Args:
            detections: With class ids from 1, as :meth:`to_supervision` gives them.
            image_size: ``(height, width)`` of the image in pixels.
            source: The path of the image.
            label_names: The model's names, index 0 the background.

        Raises:
            UsageError: There are no class ids, or some that are no class.
        """
        labels, scores = detections.class_id, detections.confidence
        if labels is None and len(detections):
            raise UsageError("supervision: the detections have no class_id", hint="set it, from 1")
        labels = np.zeros(0, np.int64) if labels is None else labels
        most = np.inf if label_names is None else len(label_names) - 1
        if ((labels < 1) | (labels > most)).any():
            expected = "1 or more" if label_names is None else f"1 to {most}"
            hint = "where they are counted from 0: detections.class_id += 1"
            got = f"{labels.min()} to {labels.max()}"
            raise UsageError(f"supervision: expected class ids of {expected}, got {got}", hint=hint)
        scores = np.ones(len(labels), np.float32) if scores is None else scores
        found = cls(
            boxes=detections.xyxy,
            scores=scores,
            labels=labels,
            image_size=image_size,
            source=source,
            label_names=label_names,
        )
        return found[np.argsort(-scores, kind="stable")]

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from frcnn.runtime.results.display import as_html

        return as_html(self)

    def _name(self, label: int) -> str:
        return str(label) if self.label_names is None else self.label_names[label]

    def _object(self, index: int) -> Detection:
        x1, y1, x2, y2 = map(_shortest, self.boxes[index])
        label, score = int(self.labels[index]), _shortest(self.scores[index])
        return Detection(box=(x1, y1, x2, y2), score=score, label=label, class_name=self._name(label))


def checked_score(score: float) -> float:
    """Return a score threshold; raise ``UsageError`` outside [0, 1]."""
    if not 0 <= score <= 1:
        raise UsageError(f"score: expected a number from 0 to 1, got {score}")
    return score


def resolve_classes(classes: ClassFilter, label_names: Sequence[str] | None) -> frozenset[int]:
    """Return the indices of classes, given by name or index, in a model's ``label_names``, if it has some.

    A name selects every class that has it; digits that are not a class name are an index.
    """
    if isinstance(classes, str):
        raise UsageError(f"classes: expected a list of names or indices, got the text {classes!r}")
    return frozenset(index for wanted in classes for index in _indices(wanted, label_names))


def _indices(wanted: str | int, label_names: Sequence[str] | None) -> list[int]:
    if isinstance(wanted, str) and label_names is not None:
        found = [index for index, name in enumerate(label_names) if name == wanted and index > 0]
        if not found and not wanted.isdecimal():
            known = ", ".join(label_names[1:])
            hint = did_you_mean(wanted, label_names[1:], f"it knows: {known}")
            raise UsageError(f"classes: the model does not know {wanted!r}", hint=hint)
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
