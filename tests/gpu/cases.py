"""Seeded heads, RoIs and feature maps, and calls that allocate their own outputs and scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops.poolers import initLevelMapper

from frcnn.plugins.cuda.launch import LoadedOperator
from frcnn.plugins.roi_pooling.level_boundaries import level_thresholds

STRIDES = (4, 8, 16, 32, 64)
CANVAS = (320, 448)

# element, layout, output_layout
FORMS = [
    (element, layout, output_layout)
    for element in ("float32", "float16", "bfloat16")
    for layout, output_layout in (("planar", "planar"), ("channels_last", "planar"), ("channels_last", "channels_last"))
]


def call(operator: LoadedOperator, *arrays: Tensor, stream: Any) -> Any:
    """Call an operator on tensors and return its output, or a tuple of them.

    Outputs are filled with NaN or -7 before, scratch with 0xCD.
    """
    outputs, scratch = buffers(operator, *arrays)
    operator(*arrays, out=outputs, scratch=scratch, stream=stream)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def buffers(operator: LoadedOperator, *arrays: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return outputs and scratch for a call."""
    shapes = [tuple(array.shape) for array in arrays]
    layouts = {name: layout for loaded in operator.kernels for name, layout in loaded.kernel.layouts.items()}
    outputs = []
    for tensor, shape in zip(operator.outputs, operator.output_shapes(*shapes), strict=True):
        dtype = getattr(torch, tensor.element)
        made = torch.full(shape, float("nan") if dtype.is_floating_point else -7, dtype=dtype, device=arrays[0].device)
        last = layouts.get(tensor.name) == "channels_last"
        outputs.append(made.contiguous(memory_format=torch.channels_last) if last else made)
    scratch = torch.full((operator.scratch_bytes(*shapes),), 0xCD, dtype=torch.uint8, device=arrays[0].device)
    return outputs, scratch


PROPOSALS = {
    "strides": (0.0,),
    "box_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 4.135166645050049,
    "iou_threshold": 0.699999988079071,
    "score_threshold": 0.0,
    "min_size": 1e-3,
}
DETECTIONS = {
    "box_weights": (10.0, 10.0, 5.0, 5.0),
    "max_log_scale": 4.135166645050049,
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "min_size": 1e-2,
}


def rpn_case(
    images: int, levels: int, anchors: int, element: str, device: Any, *, seed: int, exact: bool
) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the anchors, and the inputs of RegionProposals on a canvas of 320 x 448, by a seed.

    Args:
        images: N.
        levels: L.
        anchors: per cell.
        element: of maps.
        device: of the inputs.
        seed: of the draw.
        exact: no sizes are predicted and logits are few: every decision is exact, and many are ties.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for level in range(levels):
        for i in range(anchors):
            half = 6.0 * 2**level * (1 + i)
            rows += [level, -half, -half - i, half, half + i]
    objectness, deltas = [], []
    for stride in STRIDES[:levels]:
        size = (CANVAS[0] // stride, CANVAS[1] // stride)
        logits = torch.randn(images, anchors, *size, generator=generator) * 3 - 2
        shifts = torch.randn(images, anchors, 4, *size, generator=generator) * 0.3
        if exact:
            logits = logits.round()
            shifts = (shifts * 8).round() / 8
            shifts[:, :, 2:] = 0
        objectness.append(logits)
        deltas.append(shifts.flatten(1, 2))
    objectness[0][0, 0, 0, :4] = torch.tensor([float("nan"), float("-inf"), float("inf"), 50.0])
    sizes = torch.tensor([[CANVAS[0] - 7 * i, CANVAS[1] - 11 * i] for i in range(images)], dtype=torch.int32)
    dtype = getattr(torch, element)
    maps = [m.to(dtype) for m in (torch.empty(images, 3, *CANVAS), *objectness, *deltas)]
    return {"anchors": tuple(map(float, rows))}, [t.to(device) for t in (sizes, *maps)]


def head_case(
    images: int, per_image: int, classes: int, element: str, device: Any, *, seed: int, exact: bool
) -> list[Tensor]:
    """Return the inputs of BoxDetections by a seed; ``exact`` as for :func:`rpn_case`, with few boxes."""
    generator = torch.Generator().manual_seed(seed)
    count = images * per_image
    rois = torch.rand(images, per_image, 2, generator=generator) * 300
    rois = torch.cat([rois, rois + 8 + torch.rand(images, per_image, 2, generator=generator) * 90], dim=2)
    logits = torch.randn(count, classes, generator=generator) * 2
    deltas = torch.randn(count, 4 * classes, generator=generator)
    if exact:  # one class is certain: its score is 1, all others are 0
        rois = (rois / 16).round() * 16
        logits = torch.zeros(count, classes)
        logits[torch.arange(count), torch.randint(0, classes, (count,), generator=generator)] = 200.0
        deltas = torch.zeros(count, 4 * classes)
    rois[:, ::7] = torch.tensor([0.0, 0.0, -1.0, -1.0])
    logits[1::11] = float("nan")
    sizes = torch.tensor([[CANVAS[0] - 7 * i, CANVAS[1] - 11 * i] for i in range(images)], dtype=torch.int32)
    dtype = getattr(torch, element)
    return [t.to(device) for t in (rois, sizes, logits.to(dtype), deltas.to(dtype))]


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
