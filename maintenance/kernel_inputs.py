"""Inputs to measure the kernels on: drawn at random, or those that a trained detector really has.

``python -m maintenance.kernel_inputs -o inputs.npz`` runs the demo's checkpoint on scenes that it draws, with as many
candidates as R50-FPN has, and keeps the outputs of its RPN head and of its box predictor. It needs the repository's
``examples/``, scikit-learn and scikit-image, no GPU; a system without them can be handed the file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from frcnn.benchmarks.trial import CHECKPOINT, digits
from frcnn.files import replacing

CANVAS: Final = (800, 1344)
PROPOSALS: Final = 1000
"""Candidates of a level and proposals of an image, at most."""
CLASSES: Final = 91
"""Of COCO's category numbers, which torchvision's checkpoints count, with the background."""

_SIDES: Final = (32.0, 64.0, 128.0, 256.0, 512.0)
_RATIOS: Final = (0.5, 1.0, 2.0)
_MAPS: Final = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
_DEMO: Final = Path(__file__).resolve().parents[1] / "examples" / "train_demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the operators of one image are given; boxes are x1, y1, x2, y2 in canvas pixels.

    Attributes:
        origin: ``random`` or ``demo``.
        image_size: (1, 2) int32, (height, width) of the resized image.
        anchors: (levels x A, 5) float32: level, x1, y1, x2, y2.
        objectness: (1, A, H, W) of each level.
        deltas: (1, 4 A, H, W) of each level.
        rois: (R, 4) float32, the proposals.
        class_logits: (R, classes).
        box_deltas: (R, 4 classes).
    """

    origin: str
    image_size: Tensor
    anchors: Tensor
    objectness: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    rois: Tensor
    class_logits: Tensor
    box_deltas: Tensor


def random_inputs(seed: int, *, foreground: float = 0.05, rivals: int = 1) -> Inputs:
    """Draw what the heads of R50-FPN give: in number and size as there, objects in clusters.

    Args:
        seed: of the draw.
        foreground: share of the proposals that are no background.
        rivals: classes that share such a proposal's score.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rois = _clusters(np.random.default_rng(seed), PROPOSALS)
    logits = normal(PROPOSALS, CLASSES)
    logits[:, 0] += 9.0
    for row in torch.nonzero(torch.rand(PROPOSALS, generator=generator) < foreground).flatten().tolist():
        chosen = 1 + torch.randperm(CLASSES - 1, generator=generator)[:rivals]
        logits[row, chosen] += 12.0
    made = AnchorGenerator(tuple((side,) for side in _SIDES), (_RATIOS,) * len(_SIDES)).cell_anchors
    return Inputs(
        origin="random",
        image_size=torch.tensor([CANVAS], dtype=torch.int32),
        anchors=_rows(made),
        objectness=tuple(2 * normal(1, len(_RATIOS), *size) - 4 for size in _MAPS),
        deltas=tuple(0.2 * normal(1, 4 * len(_RATIOS), *size) for size in _MAPS),
        rois=rois,
        class_logits=logits,
        box_deltas=normal(PROPOSALS, 4 * CLASSES),
    )


def demo_inputs(count: int) -> list[Inputs]:
    """Return the inputs of so many scenes, from the demo's checkpoint run on the CPU.

    Raises:
        ImportError: the examples, scikit-learn or scikit-image are not there.
    """
    with patch.object(sys, "path", [str(_DEMO), *sys.path]):
        scenes = importlib.import_module("scenes")
    limits: dict[str, Any] = {"rpn_pre_nms_top_n_test": PROPOSALS, "rpn_post_nms_top_n_test": PROPOSALS}
    detector = digits.build(min_size=CANVAS[0], max_size=CANVAS[1], **limits).eval()
    detector.load_state_dict(torch.load(CHECKPOINT, map_location="cpu", weights_only=True)["model"])
    found = []
    for seed in range(count):
        # 3:5, so that resizing fills the canvas
        image = scenes.compose(np.random.default_rng(seed), size=(1000, 600))[0]
        found.append(_record(detector, torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255))
    return found


def load_inputs(path: Path) -> list[Inputs]:
    """Read what :func:`main` has written."""
    found: list[dict[str, Any]] = []
    with np.load(path) as saved:
        for key in saved.files:
            image, name, *level = key.split(".")
            if int(image) == len(found):
                found.append({"origin": "demo"})
            value = torch.from_numpy(saved[key])
            tensor = value.float() if value.is_floating_point() else value
            found[-1][name] = (*found[-1].get(name, ()), tensor) if level else tensor
    return [Inputs(**parts) for parts in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the demo's inputs, maps and logits in float16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .npz file")
    parser.add_argument("--count", type=int, default=2, help="scenes")
    chosen = parser.parse_args(arguments)
    parts: dict[str, Any] = {}
    for image, inputs in enumerate(demo_inputs(chosen.count)):
        for name in (field.name for field in fields(inputs) if field.name != "origin"):
            value = getattr(inputs, name)
            for key, tensor in [(name, value)] if isinstance(value, Tensor) else _levels(name, value):
                exact = name in ("image_size", "anchors", "rois")
                parts[f"{image}.{key}"] = (tensor if exact else tensor.half()).numpy()
    with replacing(chosen.output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **parts)
    return 0


@torch.inference_mode()
def _record(detector: Any, image: Tensor) -> Inputs:
    """Run the detector on one image and keep what its heads give and its pooling gets."""
    rois: list[Tensor] = []
    heads: list[tuple[Any, Any]] = []
    hooks = [
        detector.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _module, given: rois.extend(given[1])),
        detector.rpn.head.register_forward_hook(lambda _module, _given, made: heads.append(made)),
        detector.roi_heads.box_predictor.register_forward_hook(lambda _module, _given, made: heads.append(made)),
    ]
    detector([image])
    for hook in hooks:
        hook.remove()
    (objectness, deltas), (class_logits, box_deltas) = heads
    return Inputs(
        origin="demo",
        image_size=torch.tensor([CANVAS], dtype=torch.int32),
        anchors=_rows(detector.rpn.anchor_generator.cell_anchors),
        objectness=tuple(map(torch.clone, objectness)),
        deltas=tuple(map(torch.clone, deltas)),
        rois=rois[0].clone(),
        class_logits=class_logits.clone(),
        box_deltas=box_deltas.clone(),
    )


def _rows(cell_anchors: Sequence[Tensor]) -> Tensor:
    levels = [torch.full((len(anchors), 1), float(level)) for level, anchors in enumerate(cell_anchors)]
    return torch.cat([torch.cat([level, a], dim=1) for level, a in zip(levels, cell_anchors, strict=True)])


def _levels(name: str, tensors: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return [(f"{name}.{level}", tensor) for level, tensor in enumerate(tensors)]


def _clusters(rng: np.random.Generator, count: int) -> Tensor:
    height, width = CANVAS
    objects = 30
    centres = rng.uniform((0, 0), (width, height), (objects, 2))
    sides = np.exp(rng.uniform(np.log(8), np.log(height), (objects, 2)))
    chosen = rng.integers(0, objects, count)
    centre = centres[chosen] + sides[chosen] * rng.normal(0, 0.15, (count, 2))
    side = sides[chosen] * np.exp(rng.normal(0, 0.25, (count, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    return torch.from_numpy(np.clip(boxes, 0, np.array([width, height, width, height]))).float()


if __name__ == "__main__":
    sys.exit(main())
