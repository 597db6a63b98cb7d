"""Boxes to measure the kernels on: drawn at random, or those that a trained detector really makes.

``python -m maintenance.kernel_boxes -o boxes.npz`` runs the demo's checkpoint on scenes that it draws, with as
many candidates as R50-FPN has, and keeps the inputs of its NMS and its RoI pooling. It needs the repository's
``examples/``, scikit-learn and scikit-image, no GPU; a system without them can be handed the file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
import torchvision
from torch import Tensor

from frcnn.files import replacing

__all__ = ["CANVAS", "CLASSES", "PER_LEVEL", "RPN_COUNTS", "Boxes", "demo_boxes", "load_boxes", "main", "random_boxes"]

CANVAS: Final = (800, 1344)
PER_LEVEL: Final = 1000
"""Boxes a group: candidates a level, proposals an image."""
RPN_COUNTS: Final = (1000, 1000, 1000, 1000, 819)
"""Candidates a level of R50-FPN on this canvas: its coarsest has 819 anchors."""
CLASSES: Final = 90
"""Of COCO's category numbers, which torchvision's checkpoints count."""

_DEMO: Final = Path(__file__).resolve().parents[1] / "examples" / "train_demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """What the operators of one image are given; boxes are x1, y1, x2, y2 in canvas pixels, float32.

    Attributes:
        origin: ``random`` or ``demo``.
        rois: (R, 4), what RoI pooling gets.
        rpn: boxes (levels, 1000, 4) and scores (levels, 1000), -1 where absent.
        classes: boxes (classes, 1000, 4) and scores (classes, 1000), -1 where absent.
    """

    origin: str
    rois: Tensor
    rpn: tuple[Tensor, Tensor]
    classes: tuple[Tensor, Tensor]


def random_boxes(seed: int, *, present: float = 1.0) -> Boxes:
    """Draw boxes as R50-FPN has them in number: clusters, sides from 8 px to the canvas's.

    Args:
        seed: of the draw.
        present: share of the class boxes that pass the score threshold.
    """
    rng = np.random.default_rng(seed)
    rois = _clusters(rng, 1, PER_LEVEL)[0]
    rpn, scores = _clusters(rng, len(RPN_COUNTS), PER_LEVEL), _scores(rng, (len(RPN_COUNTS), PER_LEVEL))
    for level, count in enumerate(RPN_COUNTS):
        scores[level, count:] = -1
    classes, class_scores = _clusters(rng, CLASSES, PER_LEVEL), _scores(rng, (CLASSES, PER_LEVEL))
    class_scores[torch.from_numpy(rng.uniform(size=class_scores.shape) >= present)] = -1
    return Boxes(origin="random", rois=rois, rpn=(rpn, scores), classes=(classes, class_scores))


def demo_boxes(count: int) -> list[Boxes]:
    """Return the boxes of so many scenes, from the demo's checkpoint run on the CPU.

    Raises:
        ImportError: the examples, scikit-learn or scikit-image are not there.
    """
    with patch.object(sys, "path", [str(_DEMO), *sys.path]):
        scenes, model = importlib.import_module("scenes"), importlib.import_module("model")
    limits = {"rpn_pre_nms_top_n_test": PER_LEVEL, "rpn_post_nms_top_n_test": PER_LEVEL}
    detector = model.build(min_size=CANVAS[0], max_size=CANVAS[1], **limits).eval()
    detector.load_state_dict(torch.load(_DEMO / "digits.pth", map_location="cpu", weights_only=True)["model"])
    found = []
    for seed in range(count):
        # 3:5, so that resizing fills the canvas
        image = scenes.compose(np.random.default_rng(seed), size=(1000, 600))[0]
        found.append(_record(detector, torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255))
    return found


def load_boxes(path: Path) -> list[Boxes]:
    """Read what :func:`main` has written."""
    with np.load(path) as saved:
        parts = {name: torch.from_numpy(saved[name]) for name in saved.files}
    return [
        Boxes(
            origin="demo",
            rois=parts[f"rois_{i}"],
            rpn=(parts[f"rpn_boxes_{i}"], parts[f"rpn_scores_{i}"]),
            classes=(parts[f"class_boxes_{i}"], parts[f"class_scores_{i}"]),
        )
        for i in range(len(parts) // 5)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the demo's boxes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .npz file")
    parser.add_argument("--count", type=int, default=8, help="scenes")
    chosen = parser.parse_args(arguments)
    parts: dict[str, Tensor] = {}
    for i, boxes in enumerate(demo_boxes(chosen.count)):
        parts |= {f"rois_{i}": boxes.rois, f"rpn_boxes_{i}": boxes.rpn[0], f"rpn_scores_{i}": boxes.rpn[1]}
        parts |= {f"class_boxes_{i}": boxes.classes[0], f"class_scores_{i}": boxes.classes[1]}
    with replacing(chosen.output) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in parts.items()}
        np.savez_compressed(file, **arrays)
    return 0


@torch.inference_mode()
def _record(detector: Any, image: Tensor) -> Boxes:
    """Run the detector on one image and keep the inputs of its NMS and its pooling."""
    inputs: list[tuple[Tensor, Tensor, Tensor]] = []
    rois: list[Tensor] = []
    suppress = torchvision.ops.boxes.batched_nms

    def recording(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
        inputs.append((boxes, scores, groups))
        kept: Tensor = suppress(boxes, scores, groups, iou_threshold)
        return kept

    pool = detector.roi_heads.box_roi_pool
    hook = pool.register_forward_pre_hook(lambda _module, given: rois.extend(given[1]))
    with patch.object(torchvision.ops.boxes, "batched_nms", recording):
        detector([image])
    hook.remove()
    rpn, classes = inputs
    levels = int(rpn[2].max()) + 1
    class_count = detector.roi_heads.box_predictor.cls_score.out_features - 1
    return Boxes(
        origin="demo",
        rois=rois[0].clone(),
        rpn=_padded(rpn[0], rpn[1], rpn[2], levels),
        classes=_padded(classes[0], classes[1], classes[2] - 1, class_count),
    )


def _padded(boxes: Tensor, scores: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return boxes (G, 1000, 4) and scores (G, 1000), -1 where a group has no more."""
    all_boxes, all_scores = torch.zeros(count, PER_LEVEL, 4), torch.full((count, PER_LEVEL), -1.0)
    for group in range(count):
        here = groups == group
        all_boxes[group, : int(here.sum())] = boxes[here]
        all_scores[group, : int(here.sum())] = scores[here]
    return all_boxes, all_scores


def _clusters(rng: np.random.Generator, groups: int, count: int) -> Tensor:
    height, width = CANVAS
    objects = 30
    centres = rng.uniform((0, 0), (width, height), (groups, objects, 2))
    sides = np.exp(rng.uniform(np.log(8), np.log(height), (groups, objects, 2)))
    chosen = rng.integers(0, objects, (groups, count, 1))
    centre, side = (np.take_along_axis(values, chosen, axis=1) for values in (centres, sides))
    centre = centre + side * rng.normal(0, 0.15, centre.shape)
    side = side * np.exp(rng.normal(0, 0.25, side.shape))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=2)
    clipped = np.clip(boxes, 0, np.array([width, height, width, height]))
    return torch.from_numpy(clipped).float()


def _scores(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.uniform(0.05, 1, shape)).float()


if __name__ == "__main__":
    sys.exit(main())
