"""From a network's output to the detections that a call wants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.runtime.backend import NetworkOutput, Pending
from frcnn.runtime.detections import Detections
from frcnn.runtime.images.preprocess import Placed, boxes_in_image

__all__ = ["PendingDetections", "Wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which detections a call keeps.

    Attributes:
        score: least score; 0 keeps all that the model gives.
        labels: class indices, or None for all.
    """

    score: float
    labels: frozenset[int] | None

    @property
    def filters(self) -> bool:
        """Whether it leaves anything out."""
        return self.score > 0 or self.labels is not None


class PendingDetections:
    """Detections that come of a network's output; a ``Pending``.

    Args:
        output: the network's.
        batch: the images.
        wanted: which to keep.
        label_names: of the model.
    """

    def __init__(
        self,
        output: Pending[NetworkOutput],
        batch: list[Placed],
        wanted: Wanted,
        label_names: tuple[str, ...] | None,
    ) -> None:
        self._output = output
        self._batch = batch
        self._wanted = wanted
        self._label_names = label_names

    def result(self) -> list[Detections]:
        """Wait for the output and return one ``Detections`` an image.

        Raises:
            ArtifactError: the network failed, or its answer is none: NaN, or classes that the model has not.
        """
        output = self._output.result()
        return [self._detections(output, index, item) for index, item in enumerate(self._batch)]

    def close(self) -> None:
        """Let the work end."""
        self._output.close()

    def _detections(self, output: NetworkOutput, index: int, item: Placed) -> Detections:
        rows = slice(int(output.num_detections[index]))
        fault = _fault(output, index, self._label_names)
        if fault is not None:
            raise ArtifactError(
                f"the model's answer for {item.image.name} is none: {fault}",
                hint="its weights are damaged or overflow its precision; export it again, in fp32 where it was fp16",
            )
        found = Detections(
            boxes=boxes_in_image(output.boxes[index, rows], item),
            scores=output.scores[index, rows],
            labels=output.labels[index, rows].astype(np.int64),
            image_size=item.image.size,
            source=item.image.source,
            label_names=self._label_names,
        )
        return found.filter(score=self._wanted.score, classes=self._wanted.labels) if self._wanted.filters else found


def _fault(output: NetworkOutput, index: int, label_names: tuple[str, ...] | None) -> str | None:
    """Say what in an answer cannot be, which a damaged or hostile model may give; None: nothing."""
    count, maximum = int(output.num_detections[index]), output.boxes.shape[1]
    if not 0 <= count <= maximum:
        return f"{count} detections, expected 0 to {maximum}"
    if not (np.isfinite(output.boxes[index, :count]).all() and np.isfinite(output.scores[index, :count]).all()):
        return "boxes or scores that are NaN or infinite"
    labels = output.labels[index, :count]
    unknown = (labels < 1) | (labels >= len(label_names)) if label_names is not None else labels < 1
    return f"the class {labels[unknown][0]}, which it has not" if unknown.any() else None
