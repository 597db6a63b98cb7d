"""What was found in the slices of an image becomes the detections of the image."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from frcnn.runtime.detections import Detections
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.slices import Slice, Slicing

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def merged(pairs: Generator[tuple[RGBImage, Detections]], slicing: Slicing) -> Generator[tuple[RGBImage, Detections]]:
    """Yield each image with what was found in its slices, as soon as the last of them is there."""
    parts: list[tuple[Slice, Detections]] = []
    with closing(pairs):
        for image, found in pairs:
            assert isinstance(image, Slice)
            parts.append((image, found))
            if image.is_last:
                yield image.of, merge(parts, slicing)
                parts.clear()


def merge(parts: Sequence[tuple[Slice, Detections]], slicing: Slicing) -> Detections:
    """Return the detections of an image, in falling score; of one that was not cut those that it has."""
    first, found = parts[0]
    if len(parts) == 1:
        return found
    origins = np.array([(part.left, part.top, part.left, part.top) for part, _ in parts], np.float32)
    counts = [len(found) for _, found in parts]
    boxes = np.concatenate([found.boxes for _, found in parts]) + np.repeat(origins, counts, axis=0)
    scores = np.concatenate([found.scores for _, found in parts])
    labels = np.concatenate([found.labels for _, found in parts])
    if slicing.merge == "nms":
        kept = suppressed(boxes, scores, labels, slicing.iou)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    else:
        boxes, scores, labels = fused(boxes, scores, labels, slicing.iou)
    size, source, names = first.of.size, first.of.source, found.label_names
    return Detections(boxes=boxes, scores=scores, labels=labels, image_size=size, source=source, label_names=names)


def box_iou(a: Floats, b: Floats) -> Floats:
    """Return the IoU of every box of (A, 4) with every one of (B, 4), x1, y1, x2, y2: (A, B) float32."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(bottom_right - top_left, 0, None).prod(-1)
    areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b))
    union = areas_a[:, None] + areas_b[None] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0), np.float32)


def suppressed(boxes: Floats, scores: Floats, labels: Indices, iou: float) -> Indices:
    """Return which boxes non-maximum suppression keeps, in falling score, those of equal score in their order.

    The decisions are those of ``torchvision.ops.nms`` for each class, which compares the float32 IoU with the float64
    threshold.
    """
    kept: list[int] = []
    for left in _by_class(scores, labels):
        while left.size:
            best, others = left[:1], left[1:]
            kept.append(int(best[0]))
            left = others[box_iou(boxes[best], boxes[others])[0].astype(np.float64) <= iou]
    indices = np.sort(np.array(kept, np.int64))
    return indices[np.argsort(-scores[indices], kind="stable")]


def fused(boxes: Floats, scores: Floats, labels: Indices, iou: float) -> tuple[Floats, Floats, Indices]:
    """Return boxes, scores and labels of weighted boxes fusion, in falling score.

    A box, best first, joins the fused box of its class that it overlaps most, if that is by more than ``iou``, and
    begins another one otherwise. As the slices are one model, the paper's factor for boxes that few models found is 1.
    """
    weights = np.maximum(scores.astype(np.float64), np.finfo(np.float32).tiny)[:, None]
    sums, totals, counts = np.zeros((len(boxes), 4)), np.zeros((len(boxes), 1)), np.zeros((len(boxes), 1))
    means, classes, end = np.empty((len(boxes), 4), np.float32), np.empty(len(boxes), np.int64), 0
    for order in _by_class(scores, labels):
        start = end
        for index in order:
            overlaps = box_iou(boxes[index : index + 1], means[start:end])[0].astype(np.float64)
            place = start + int(overlaps.argmax()) if (overlaps > iou).any() else end
            end = max(end, place + 1)
            sums[place] += weights[index] * boxes[index]
            totals[place] += weights[index]
            counts[place] += 1
            means[place], classes[place] = sums[place] / totals[place], labels[index]
    averages = (totals[:end] / counts[:end])[:, 0].astype(np.float32)
    order = np.argsort(-averages, kind="stable")
    return means[order], averages[order], classes[order]


def _by_class(scores: Floats, labels: Indices) -> list[Indices]:
    """Return the indices of each class, in falling score."""
    order = np.argsort(-scores, kind="stable")
    return [order[labels[order] == label] for label in np.unique(labels)]
