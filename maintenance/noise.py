"""How far float32 detections are from exact ones: eager torchvision in float64 is the truth.

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

from frcnn.benchmarks.candidates.eager_detector import fix_pooler_scales, run_network
from frcnn.benchmarks.parity.matching import match
from frcnn.runtime import Detections
from frcnn.spec import ModelSpec, Size

__all__ = ["Noise", "as_float64", "network_detections", "noise_between", "session_detections"]

_MARGIN = 1e-3


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of detections from the truth.

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
    fix_pooler_scales(model, spec)
    dtype = next(model.parameters()).dtype
    found = run_network(model, images.to(dtype), sizes)
    return [
        Detections(
            boxes=result["boxes"].float().numpy(),
            scores=result["scores"].float().numpy(),
            labels=result["labels"].numpy(),
            image_size=size,
        )
        for result, size in zip(found, sizes, strict=True)
    ]


def session_detections(session: Any, images: Tensor, sizes: Sequence[Size]) -> list[Detections]:
    """Run an exported model in a bare ONNX Runtime session, like ``network_detections`` runs eager.

    Args:
        session: an ``onnxruntime.InferenceSession`` of a ``model.onnx``.
        images: (N, 3, H, W) float32, normalised and padded.
        sizes: (height, width) of each resized image.
    """
    feeds = {"images": images.numpy(), "image_sizes": np.array(sizes, np.int32)}
    counts, boxes, scores, labels = session.run(None, feeds)
    return [
        Detections(
            boxes=boxes[i, :count], scores=scores[i, :count], labels=labels[i, :count].astype(np.int64), image_size=size
        )
        for i, (count, size) in enumerate(zip(counts, sizes, strict=True))
    ]


def noise_between(truth: Iterable[Detections], found: Iterable[Detections], spec: ModelSpec) -> Noise:
    """Measure the distance of detections from the truth, images in the same order."""
    boxes, scores = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    lost, looked_at, pairs = 0, 0, 0
    for exact, own in zip(truth, found, strict=True):
        full = min(len(exact), len(own)) >= spec.roi_heads.detections_per_img
        lowest = max(float(side.scores.min(initial=1.0)) for side in (exact, own)) if full else 0.0
        cutoff = max(spec.roi_heads.score_thresh, lowest) + _MARGIN
        matches = match(exact, own)
        e, a = matches.pairs[:, 0], matches.pairs[:, 1]
        same = exact.labels[e] == own.labels[a]
        boxes.append(np.abs(exact.boxes[e[same]] - own.boxes[a[same]]).ravel())
        scores.append(np.abs(exact.scores[e[same]] - own.scores[a[same]]))
        clear_exact, clear_own = exact.scores > cutoff, own.scores > cutoff
        with_partner_e, with_partner_a = np.zeros(len(exact), bool), np.zeros(len(own), bool)
        with_partner_e[e[same]] = with_partner_a[a[same]] = True
        lost += int((clear_exact & ~with_partner_e).sum() + (clear_own & ~with_partner_a).sum())
        looked_at += int(clear_exact.sum() + clear_own.sum())
        pairs += int(same.sum())
    all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
    return Noise(
        pairs=pairs,
        unmatched=lost / max(1, looked_at),
        box_px_rms=_rms(all_boxes),
        box_px_max=float(all_boxes.max(initial=0.0)),
        score_rms=_rms(all_scores),
        score_max=float(all_scores.max(initial=0.0)),
    )


def _rms(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
