"""Seeded boxes, RoIs and feature maps, and calls that allocate their own output and scratch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops.poolers import initLevelMapper

from frcnn.plugins.cuda.launch import LoadedOperator, load_operator
from frcnn.plugins.roi_pooling.level_boundaries import level_thresholds

STRIDES = (4, 8, 16, 32, 64)
CANVAS = (320, 448)

# element, layout, output_layout
FORMS = [
    (element, layout, output_layout)
    for element in ("float32", "float16", "bfloat16")
    for layout, output_layout in (("planar", "planar"), ("channels_last", "planar"), ("channels_last", "channels_last"))
]


def call(operator: LoadedOperator, *arrays: Tensor, stream: Any) -> Tensor:
    """Call an operator on tensors; the output is filled with NaN, scratch with 0xCD."""
    shapes = [tuple(array.shape) for array in arrays]
    last = "channels_last" in {k.kernel.layouts.get(operator.output.name) for k in operator.kernels}
    out = torch.full(
        operator.output_shape(*shapes),
        float("nan"),
        dtype=getattr(torch, operator.output.element),
        device=arrays[0].device,
    )
    out = out.contiguous(memory_format=torch.channels_last) if last else out
    scratch = torch.full((operator.scratch_bytes(*shapes),), 0xCD, dtype=torch.uint8, device=arrays[0].device)
    operator(*arrays, out=out, scratch=scratch, stream=stream)
    return out


def run_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, stream: Any) -> Tensor:
    return call(_nms(iou_threshold), boxes, scores, stream=stream)


@cache
def _nms(iou_threshold: float) -> LoadedOperator:
    return load_operator("GroupedNMS", iou_threshold=float(np.float32(iou_threshold)))


def proposals(groups: int, boxes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return groups of clustered boxes on the CPU: a third on a lattice, with ties, absent boxes and NaN scores."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 1000, (groups, max(1, boxes // 8), 2))
    chosen = rng.integers(0, centres.shape[1], (groups, boxes))
    corners = np.take_along_axis(centres, chosen[..., None], axis=1) + rng.normal(0, 12, (groups, boxes, 2))
    made = np.concatenate([corners, corners + np.exp(rng.normal(3.5, 0.6, (groups, boxes, 2)))], axis=2)
    scores = rng.uniform(0, 1, (groups, boxes))
    kind = rng.integers(0, 3, groups)
    made[kind == 0] = np.round(made[kind == 0] / 8) * 8
    scores[kind == 0] = np.round(scores[kind == 0], 1)
    scores[rng.uniform(size=scores.shape) < rng.choice([0.0, 0.2, 0.9], (groups, 1))] = -1
    scores[rng.uniform(size=scores.shape) < 0.01] = np.nan
    return torch.from_numpy(made).float(), torch.from_numpy(scores).float()


def pooling(levels: int, grid: tuple[int, int] = (7, 7), **rest: Any) -> dict[str, Any]:
    """Return the attributes of RoI pooling over the first levels of a pyramid, by torchvision's rule."""
    mapper = initLevelMapper(2, 1 + levels, 224, 4)

    def level_of_side(side: float) -> int:
        # torchvision's rule after its sqrt(area)
        level = torch.floor(mapper.lvl0 + torch.log2(torch.tensor(side) / mapper.s0) + torch.tensor(mapper.eps))
        return int(level.clamp(mapper.k_min, mapper.k_max)) - mapper.k_min

    return {
        "output_height": grid[0],
        "output_width": grid[1],
        "spatial_scales": [1 / stride for stride in STRIDES[:levels]],
        "level_thresholds": list(level_thresholds(level_of_side, coarsest_level=levels - 1)),
        **rest,
    }


def maps_of(images: int, channels: int, levels: int, element: str, layout: str, device: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(images * channels + levels)
    kind = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    sizes = [(-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in STRIDES[:levels]]
    maps = [torch.randn(images, channels, *size, generator=generator) for size in sizes]
    return [m.to(getattr(torch, element)).contiguous(memory_format=kind).to(device) for m in maps]


def rois_of(images: int, per_image: int, thresholds: Sequence[float], seed: int) -> Tensor:
    """Return RoIs on the CPU: on the canvas, across its border, tiny, with a side where a level begins, absent."""
    rng = np.random.default_rng(seed)
    count = images * per_image
    start = rng.uniform(-30, 300, (count, 2))
    size = np.exp(rng.uniform(-1, 6.2, (count, 2)))
    edge = rng.choice(np.array([t for t in thresholds if t < 1e6] or [64.0]), (count, 1))
    kinds = [
        np.concatenate([start, start + size], axis=1),
        np.concatenate([start, start + size], axis=1),
        np.round(np.concatenate([start, start + size], axis=1)),
        np.concatenate([start, start], axis=1),
        np.concatenate([0 * edge, 0 * edge, edge, edge], axis=1),
        np.concatenate([start, start - 5], axis=1),
        np.full((count, 4), np.nan),
    ]
    mixed = np.stack(kinds)[rng.integers(0, len(kinds), count), np.arange(count)]
    return torch.from_numpy(mixed.reshape(images, per_image, 4)).float()
