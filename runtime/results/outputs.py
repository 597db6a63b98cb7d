"""The network's output becomes the detections that a call keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.runtime.backend import NetworkOutput, Pending
from frcnn.runtime.detections import Detections
from frcnn.runtime.images.preprocess import Placed, boxes_in_image


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFilter:
    """Which detections a call keeps: those of a minimum score, and of some classes or all."""

    score: float
    labels: frozenset[int] | None

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is filtered out."""
        return self.score == 0 and self.labels is None


@dataclass(frozen=True, slots=True, eq=False)
class PendingDetections:
    """Detections of a batch that the network works on; a ``Pending``."""

    output: Pending[NetworkOutput]
    batch: list[Placed]
    keep: DetectionFilter
    label_names: tuple[str, ...] | None

    def result(self) -> list[Detections]:
        """Wait for the output and return a ``Detections`` per image."""
        output = self.output.result()
        return [self._detections(output, index, item) for index, item in enumerate(self.batch)]

    def close(self) -> None:
        """Let the work end."""
        self.output.close()

    def _detections(self, output: NetworkOutput, index: int, item: Placed) -> Detections:
        rows = slice(int(output.num_detections[index]))
        fault = _fault(output, index, self.label_names)
        if fault is not None:
            raise ArtifactError(
                f"{item.image.name}: the model's output is invalid: {fault}",
                hint="its weights are damaged or overflow its precision; export it again, in fp32 where it was fp16",
            )
        found = Detections(
            boxes=boxes_in_image(output.boxes[index, rows], item),
            scores=output.scores[index, rows],
            labels=output.labels[index, rows].astype(np.int64),
            image_size=item.image.size,
            source=item.image.source,
            label_names=self.label_names,
        )
        return found if self.keep.keeps_all else found.filter(score=self.keep.score, classes=self.keep.labels)


def _fault(output: NetworkOutput, index: int, label_names: tuple[str, ...] | None) -> str | None:
    """Return what is impossible in an output, which a damaged or hostile model may give; None: nothing."""
    count, maximum = int(output.num_detections[index]), output.boxes.shape[1]
    if not 0 <= count <= maximum:
        return f"{count} detections, expected 0 to {maximum}"
    if not (np.isfinite(output.boxes[index, :count]).all() and np.isfinite(output.scores[index, :count]).all()):
        return "boxes or scores that are NaN or infinite"
    labels = output.labels[index, :count]
    unknown = (labels < 1) | (labels >= len(label_names)) if label_names is not None else labels < 1
    return f"class {labels[unknown][0]}, which the model does not have" if unknown.any() else None
