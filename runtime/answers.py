"""From a network's output to the detections that a call wants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frcnn.runtime.backend import NetworkOutput, Pending
from frcnn.runtime.detections import Detections
from frcnn.runtime.preprocess import Placed, boxes_in_picture

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
        batch: the pictures.
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
        """Wait for the output and return one ``Detections`` a picture.

        Raises:
            ArtifactError: the network failed.
        """
        output = self._output.result()
        return [self._detections(output, index, item) for index, item in enumerate(self._batch)]

    def close(self) -> None:
        """Let the work end."""
        self._output.close()

    def _detections(self, output: NetworkOutput, index: int, item: Placed) -> Detections:
        rows = slice(int(output.num_detections[index]))
        found = Detections(
            boxes=boxes_in_picture(output.boxes[index, rows], item),
            scores=output.scores[index, rows],
            labels=output.labels[index, rows].astype(np.int64),
            image_size=item.picture.size,
            source=item.picture.source,
            label_names=self._label_names,
        )
        return found.filter(score=self._wanted.score, classes=self._wanted.labels) if self._wanted.filters else found
