"""What the kernel benchmark measures: each kernel and torchvision's CUDA operators on the same tensors.

A case also checks, on those tensors, that our result is right; it is raised there if it is not. The targets of one
image of R50-FPN, with the L2 warm:

- RoIAlign of 1,000 RoIs in fp16: 40 us;
- NMS of the RPN, 5 levels, nearly all of 1,000 boxes present: 25 us;
- NMS of 90 classes of 1,000 boxes where at most one in twenty passes the score threshold: 10 us. Full groups
  are the worst case and have no target: their pairs alone take longer than that, see ``kernel_floors``;
- preprocessing of an image of 1920 x 1080: 20 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from torchvision.ops.poolers import initLevelMapper

from frcnn.plugins.cuda.launch import LoadedOperator, load_operator, load_preprocess
from frcnn.plugins.grouped_nms.reference import grouped_nms
from frcnn.plugins.kernel import Element, Layout
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align
from frcnn.plugins.roi_pooling.level_boundaries import level_thresholds
from maintenance.kernel_boxes import CANVAS, CLASSES, PER_LEVEL, RPN_COUNTS, Boxes
from maintenance.kernel_floors import Work, align_work, nms_work
from maintenance.kernel_timing import Implementation

__all__ = ["OURS", "OURS_FROM_PYTHON", "THEIRS", "Case", "align_case", "nms_case", "preprocess_case"]

OURS: Final = "frcnn"
OURS_FROM_PYTHON: Final = "frcnn, called from Python"
THEIRS: Final = "torchvision"

_STRIDES: Final = (4, 8, 16, 32)
_SPARSE: Final = 0.05  # share of the class boxes that pass a score threshold, at most
_CHECKED: Final = 4  # of the groups after the first image, one in so many; fewer than any image has
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case of the benchmark.

    Attributes:
        name: kernel and shapes.
        batch: images.
        boxes: ``random``, ``demo``, or nothing.
        implementations: ours and torchvision's.
        density: share of the boxes or RoIs that are present, 0 to 1; None where there are none.
        work: what any implementation must move and compute.
        target_us: what we want to reach, warm.
        check: raises AssertionError where our result is wrong.
    """

    name: str
    batch: int
    boxes: str
    implementations: tuple[Implementation, ...]
    density: float | None
    work: Work
    target_us: float | None
    check: Callable[[], None]


def align_case(
    images: Sequence[Boxes], *, element: Element = "float16", layout: Layout = "channels_last", channels: int = 256
) -> Case:
    """Return RoIAlign over four levels, 7 x 7, as R50-FPN has it; RoIs beyond an image's own are absent."""
    count = max(len(boxes.rois) for boxes in images)
    rois = torch.tensor([0.0, 0.0, -1.0, -1.0]).repeat(len(images), count, 1)
    for padded, boxes in zip(rois, images, strict=True):
        padded[: len(boxes.rois)] = boxes.rois
    rois = rois.cuda()
    kind = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(0)
    maps = []
    for stride in _STRIDES:
        shape = (len(images), channels, CANVAS[0] // stride, CANVAS[1] // stride)
        made = torch.randn(shape, device="cuda")
        maps.append(made.to(getattr(torch, element)).contiguous(memory_format=kind))
    given: dict[str, Any] = {
        "output_height": 7,
        "output_width": 7,
        "spatial_scales": [1 / stride for stride in _STRIDES],
        "level_thresholds": _thresholds(),
        "sampling_ratio": 2,
        "aligned": 0,
    }
    operator = load_operator("MultiscaleRoIAlign", element=element, layout=layout, **given)
    ours, out = _bound(operator, rois, *maps)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    # torchvision pools no bfloat16; float16 moves as many bytes
    theirs = torch.float16 if element == "bfloat16" else maps[0].dtype
    named = {str(level): m.to(theirs) for level, m in enumerate(maps)}
    lists = [boxes.rois.cuda().to(theirs) for boxes in images]

    def check() -> None:
        ours()
        expected = multiscale_roi_align(rois, [m.float() for m in maps], **given)
        # torchvision's CUDA kernel is compiled with contraction, so a sample on the border may count or not
        allowed = 2e-4 * float(maps[0].abs().max()) + torch.finfo(out.dtype).eps * expected.abs()
        wrong = float(((out.float() - expected).abs() > allowed).float().mean())
        assert wrong < 1e-3, f"{wrong:.2%} of the values are wrong"

    reference_shape = (element, layout, channels, count) == ("float16", "channels_last", 256, 1000)
    return Case(
        name=f"MultiscaleRoIAlign {count} RoIs x {channels} channels, {element}, {layout}",
        batch=len(images),
        boxes=images[0].origin,
        implementations=_implementations(ours, lambda: pooler(named, lists, [CANVAS] * len(lists))),
        density=sum(len(boxes.rois) for boxes in images) / (len(images) * count),
        work=align_work(rois, maps, out, **given),
        target_us=40.0 if reference_shape and len(images) == 1 else None,
        check=check,
    )


def nms_case(images: Sequence[Boxes], *, of: str, iou_threshold: float) -> Case:
    """Return the NMS ``of`` the RPN or of the classes; torchvision runs image by image, as its model does.

    Args:
        images: one or more.
        of: ``rpn`` or ``classes``.
        iou_threshold: the operator's attribute.
    """
    pairs = [boxes.rpn if of == "rpn" else boxes.classes for boxes in images]
    boxes, scores = (torch.cat(parts).cuda() for parts in zip(*pairs, strict=True))
    ours, out = _bound(load_operator("GroupedNMS", iou_threshold=iou_threshold), boxes, scores)
    theirs = [_flat(*pair) for pair in pairs]

    def check() -> None:
        ours()
        # the reference runs on the CPU: all of the first image, and a part of the others that meets every image
        chosen = [*range(groups), *range(groups, len(scores), _CHECKED)]
        some = (tensor[chosen].cpu() for tensor in (boxes, scores))
        assert torch.equal(out[chosen].cpu(), grouped_nms(*some, iou_threshold=iou_threshold)), "wrong boxes are kept"

    groups, maximum = pairs[0][1].shape
    density = float((scores >= 0).float().mean())
    return Case(
        name=f"GroupedNMS {of}, {groups} x {maximum}, {density:.0%} present",
        batch=len(images),
        boxes=images[0].origin,
        implementations=_implementations(ours, lambda: [batched_nms(*given, iou_threshold) for given in theirs]),
        density=density,
        work=nms_work(scores),
        target_us=_nms_target_us(of, groups, density) if (len(images), maximum) == (1, PER_LEVEL) else None,
        check=check,
    )


def preprocess_case(shapes: Sequence[tuple[int, int]], *, element: Element) -> Case:
    """Return preprocessing of decoded images (height, width) that lie on the GPU already, as for R50-FPN."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (*s, 3), generator=generator, dtype=torch.uint8).cuda() for s in shapes]
    transform = GeneralizedRCNNTransform(800, 1333, list(_MEAN), list(_STD))

    def theirs() -> Any:
        return transform([image.permute(2, 0, 1).float().div(255) for image in images])[0]

    expected = theirs()
    rows = [
        (image.data_ptr(), *image.shape[:2], *image.stride(), *size)
        for image, size in zip(images, expected.image_sizes, strict=True)
    ]
    operator = load_preprocess(element=element, image_mean=_MEAN, image_std=_STD)
    canvas = tuple(expected.tensors.shape[2:])
    ours, out = _bound(operator, torch.tensor(rows, device="cuda"), H=canvas[0], W=canvas[1])

    def check() -> None:
        ours()
        allowed = 1e-3 + torch.finfo(out.dtype).eps * expected.tensors.abs()
        assert bool(((out.float() - expected.tensors).abs() <= allowed).all())

    full_hd = list(shapes) == [(1080, 1920)]
    return Case(
        name=f"preprocess {shapes[0][0]}x{shapes[0][1]} to {canvas[0]}x{canvas[1]}, {element}",
        batch=len(shapes),
        boxes="",
        implementations=_implementations(ours, theirs),
        density=None,
        work=Work(moved_bytes=sum(image.numel() for image in images) + out.numel() * out.element_size()),
        target_us=20.0 if full_hd else None,
        check=check,
    )


def _nms_target_us(of: str, groups: int, density: float) -> float | None:
    if of == "rpn":
        return 25.0 if groups == len(RPN_COUNTS) else None
    return 10.0 if groups == CLASSES and density <= _SPARSE else None


def _implementations(ours: Callable[[], None], theirs: Callable[[], object]) -> tuple[Implementation, ...]:
    return (
        Implementation(name=OURS, run=ours, capturable=True),
        Implementation(name=OURS_FROM_PYTHON, run=ours, capturable=False),
        Implementation(name=THEIRS, run=theirs, capturable=False),  # it waits for sizes that only the GPU knows
    )


def _bound(operator: LoadedOperator, *arrays: Tensor, **sizes: int) -> tuple[Callable[[], None], Tensor]:
    """Return a call of the operator on PyTorch's current stream, and its output."""
    shapes = [tuple(array.shape) for array in arrays]
    dtype = getattr(torch, operator.output.element)
    out = torch.empty(operator.output_shape(*shapes, **sizes), dtype=dtype, device="cuda")
    scratch = torch.empty(operator.scratch_bytes(*shapes, **sizes), dtype=torch.uint8, device="cuda")

    def run() -> None:
        operator(*arrays, out=out, scratch=scratch, stream=torch.cuda.current_stream())

    return run, out


def _flat(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the present boxes, their scores and groups: what torchvision's own model hands to ``batched_nms``."""
    present = scores >= 0
    groups = torch.arange(len(scores))[:, None].expand_as(scores)
    return boxes[present].cuda(), scores[present].cuda(), groups[present].cuda()


def _thresholds() -> tuple[float, ...]:
    mapper = initLevelMapper(2, 5, 224, 4)

    def level_of_side(side: float) -> int:
        level = torch.floor(mapper.lvl0 + torch.log2(torch.tensor(side) / mapper.s0) + torch.tensor(mapper.eps))
        return int(level.clamp(mapper.k_min, mapper.k_max)) - int(mapper.k_min)

    return level_thresholds(level_of_side, coarsest_level=3)
