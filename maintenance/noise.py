"""The distance of float32 detections from the reference, eager torchvision in float64.

Two correct float32 programs differ by rounding, and a detector amplifies that: the last bit may decide what NMS keeps.
So an artifact on random weights is not held to a fixed distance from eager float32 but to a multiple of the distance
that eager float32 itself has from float64. (The rule of flash-attention's tests.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.benchmarks.candidates.eager_detector import match_export, run_network
from frcnn.benchmarks.parity.matching import match
from frcnn.runtime import Detections
from frcnn.spec import ModelSpec, Size

_MARGIN = 1e-3


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of detections from the reference.

    Attributes:
        pairs: detections that have a partner of their label.
        unmatched: share of the detections of both sides without one, where the score is clear of the cut-off.
        box_px_rms: root mean square difference of box coordinates in canvas pixels.
        box_px_max: largest.
        score_rms: root mean square difference of scores.
        score_max: largest.
    """

    pairs: int
    unmatched: float
    box_px_rms: float
    box_px_max: float
    score_rms: float
    score_max: float


def as_float64(model: GeneralizedRCNN) -> GeneralizedRCNN:
    """Return a float64 copy of a model."""
    return copy.deepcopy(model).double().eval()  # a copied feature extractor falls back to its training graph


@torch.inference_mode()
def network_detections(
    model: GeneralizedRCNN, spec: ModelSpec, images: Tensor, sizes: Sequence[Size]
) -> list[Detections]:
    """Run eager torchvision between preprocessing and postprocessing.

    Args:
        model: in eval mode, of any floating type.
        spec: its description.
        images: (N, 3, H, W) float32, normalised and padded.
        sizes: (height, width) of each resized image.

    Returns:
        One an image, boxes in canvas pixels.
    """
    match_export(model, spec)
    dtype = next(model.parameters()).dtype
    results = run_network(model, images.to(dtype), sizes)
    return [
        Detections(
            boxes=result["boxes"].float().numpy(),
            scores=result["scores"].float().numpy(),
            labels=result["labels"].numpy(),
            image_size=size,
        )
        for result, size in zip(results, sizes, strict=True)
    ]


def session_detections(session: Any, images: Tensor, sizes: Sequence[Size]) -> list[Detections]:
    """Run an exported model in a bare ONNX Runtime session, like ``network_detections`` runs eager.

    Args:
        session: an ``onnxruntime.InferenceSession`` of a ``model.onnx``.
        images: (N, 3, H, W) float32, normalised and padded.
        sizes: (height, width) of each resized image.
    """
    outputs = session.run(None, {"images": images.numpy(), "image_sizes": np.array(sizes, np.int32)})
    return [
        Detections(boxes=boxes[:count], scores=scores[:count], labels=labels[:count], image_size=size)
        for count, boxes, scores, labels, size in zip(*outputs, sizes, strict=True)
    ]


def noise_between(reference: Iterable[Detections], detections: Iterable[Detections], spec: ModelSpec) -> Noise:
    """Measure the distance of detections from the reference, images in the same order."""
    box_errors, score_errors = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    unmatched, counted = 0, 0
    for sides in zip(reference, detections, strict=True):
        is_full = min(map(len, sides)) >= spec.roi_heads.detections_per_img
        lowest = max(float(side.scores.min(initial=1.0)) for side in sides) if is_full else 0.0
        cutoff = max(spec.roi_heads.score_thresh, lowest) + _MARGIN
        pairs = match(*sides).pairs
        a, b = (
            Detections(
                boxes=side.boxes[rows], scores=side.scores[rows], labels=side.labels[rows], image_size=side.image_size
            )
            for side, rows in zip(sides, pairs.T, strict=True)
        )
        same = a.labels == b.labels
        box_errors.append(np.abs(a.boxes - b.boxes)[same].ravel())
        score_errors.append(np.abs(a.scores - b.scores)[same])
        for side, rows in zip(sides, pairs[same].T, strict=True):
            is_clear = side.scores > cutoff
            counted += int(is_clear.sum())
            unmatched += int(np.delete(is_clear, rows).sum())
    boxes, scores = np.concatenate(box_errors), np.concatenate(score_errors)
    return Noise(
        pairs=len(scores),
        unmatched=unmatched / max(1, counted),
        box_px_rms=_rms(boxes),
        box_px_max=float(boxes.max(initial=0.0)),
        score_rms=_rms(scores),
        score_max=float(scores.max(initial=0.0)),
    )


def _rms(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
