"""What the kernel benchmark measures: each operator and torchvision's own code for it, on the same tensors.

A case also checks, on those tensors, that our result is right; it is raised there if it is not. The targets of one
image of R50-FPN, with the L2 warm:

- RegionProposals of 268,569 logits in five levels: 30 us;
- RoIAlign of 1,000 RoIs in fp16, channels-last to channels-last: 30 us;
- BoxDetections of 1,000 proposals and 90 classes, one pair in a thousand over the score threshold: 15 us. Where fifteen
  classes share every proposal there are a hundred times as many, and no target;
- preprocessing of an image of 1920 x 1080: 20 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.cuda.launch import LoadedOperator, load_operator, load_preprocess
from frcnn.plugins.kernel import Element, Layout
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align
from frcnn.plugins.region_proposals.reference import region_proposals
from frcnn.plugins.roi_pooling.level_boundaries import level_thresholds
from maintenance.kernel_floors import Work, align_work, bytes_of
from maintenance.kernel_inputs import CANVAS, PROPOSALS, Inputs
from maintenance.kernel_timing import Implementation

OURS: Final = "frcnn"
OURS_FROM_PYTHON: Final = "frcnn, called from Python"
THEIRS: Final = "torchvision"

_STRIDES: Final = (4, 8, 16, 32)
_USUAL: Final = 0.002  # share of proposals x classes that pass the score threshold, at most
_ABSENT: Final = (0.0, 0.0, -1.0, -1.0)
_MAX_LOG_SCALE: Final = 4.135166556742356
_SAME_PX: Final = 0.01
_PROPOSALS: Final[dict[str, Any]] = {
    "strides": (0.0,),
    "box_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": _MAX_LOG_SCALE,
    "pre_nms_top_n": PROPOSALS,
    "post_nms_top_n": PROPOSALS,
    "iou_threshold": 0.699999988079071,
    "score_threshold": 0.0,
    "min_size": 1e-3,
}
_DETECTIONS: Final[dict[str, Any]] = {
    "box_weights": (10.0, 10.0, 5.0, 5.0),
    "max_log_scale": _MAX_LOG_SCALE,
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "min_size": 1e-2,
    "max_detections": 100,
}
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
        density: share of the RoIs or pairs that are present, 0 to 1; None where there are none.
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
    images: Sequence[Inputs],
    *,
    element: Element = "float16",
    layout: Layout = "channels_last",
    output_layout: Layout = "channels_last",
    channels: int = 256,
) -> Case:
    """Return RoIAlign over four levels, 7 x 7, as R50-FPN has it; RoIs beyond an image's own are absent."""
    rois = _padded_rois(images)
    count = rois.shape[1]
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
    form: dict[str, Any] = {"element": element, "layout": layout, "output_layout": output_layout, "channels": channels}
    ours, (out,) = _bound(load_operator("MultiscaleRoIAlign", **form, **given), rois, *maps)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    # torchvision pools no bfloat16; float16 moves as many bytes
    theirs = torch.float16 if element == "bfloat16" else maps[0].dtype
    named = {str(level): m.to(theirs) for level, m in enumerate(maps)}
    lists = [inputs.rois.cuda().to(theirs) for inputs in images]

    def check() -> None:
        ours()
        expected = multiscale_roi_align(rois, [m.float() for m in maps], **given)
        # torchvision's CUDA kernel is compiled with contraction, so a sample on the border may count or not
        allowed = 2e-4 * float(maps[0].abs().max()) + torch.finfo(out.dtype).eps * expected.abs()
        wrong = float(((out.float() - expected).abs() > allowed).float().mean())
        assert wrong < 1e-3, f"{wrong:.2%} of the values are wrong"

    last = (layout, output_layout) == ("channels_last", "channels_last")
    reference_shape = last and (element, channels, count) == ("float16", 256, PROPOSALS)
    return Case(
        name=f"MultiscaleRoIAlign {count} RoIs x {channels} channels, {element}, {layout} to {output_layout}",
        batch=len(images),
        boxes=images[0].origin,
        implementations=_implementations(ours, lambda: pooler(named, lists, [CANVAS] * len(lists))),
        density=sum(len(inputs.rois) for inputs in images) / (len(images) * count),
        work=align_work(rois, maps, out, **given),
        target_us=30.0 if reference_shape and len(images) == 1 else None,
        check=check,
    )


def proposals_case(images: Sequence[Inputs], *, element: Element = "float16") -> Case:
    """Return RegionProposals of the RPN head's outputs; torchvision decodes all anchors, image by image in its NMS."""
    dtype = getattr(torch, element)
    sizes = torch.cat([inputs.image_size for inputs in images]).cuda()
    canvas = torch.empty((len(images), 3, *CANVAS), dtype=dtype, device="cuda")
    objectness, deltas = (
        [torch.cat(level).cuda().to(dtype) for level in zip(*of_images, strict=True)]
        for of_images in ([i.objectness for i in images], [i.deltas for i in images])
    )
    given: dict[str, Any] = {"anchors": images[0].anchors.flatten().tolist(), **_PROPOSALS}
    operator = load_operator("RegionProposals", element=element, **given)
    ours, (rois,) = _bound(operator, sizes, canvas, *objectness, *deltas)
    theirs = _filter_proposals(images[0].anchors, objectness, deltas, sizes.tolist())

    def check() -> None:
        ours()
        expected = region_proposals(
            sizes.cpu(), canvas.cpu(), *([m.cpu() for m in of] for of in (objectness, deltas)), **given
        )
        for found, wanted in zip(rois.cpu(), expected, strict=True):
            ours_of_image, theirs_of_image = (boxes[boxes[:, 2] >= boxes[:, 0]] for boxes in (found, wanted))
            check_same_boxes(ours_of_image, theirs_of_image)

    logits = sum(level.shape[1:].numel() for level in objectness)
    return Case(
        name=f"RegionProposals {logits} logits, {len(objectness)} levels, {element}",
        batch=len(images),
        boxes=images[0].origin,
        implementations=_implementations(ours, theirs),
        density=None,
        work=Work(
            moved_bytes=bytes_of(*objectness, rois)
            + 4 * len(images) * len(objectness) * PROPOSALS * deltas[0].element_size()
        ),
        target_us=30.0 if len(images) == 1 and len(objectness) == 5 else None,
        check=check,
    )


def detections_case(images: Sequence[Inputs], *, element: Element = "float16") -> Case:
    """Return BoxDetections of the box predictor's outputs; torchvision runs image by image, as its model does."""
    dtype = getattr(torch, element)
    sizes = torch.cat([inputs.image_size for inputs in images]).cuda()
    rois = _padded_rois(images)
    count, classes = rois.shape[1], images[0].class_logits.shape[1]

    def padded(rows: Sequence[Tensor]) -> Tensor:
        made = torch.zeros(len(rows), count, rows[0].shape[1])
        for part, of_image in zip(made, rows, strict=True):
            part[: len(of_image)] = of_image
        return made.flatten(0, 1).cuda().to(dtype)

    logits = padded([inputs.class_logits for inputs in images])
    deltas = padded([inputs.box_deltas for inputs in images])
    ours, outputs = _bound(load_operator("BoxDetections", element=element, **_DETECTIONS), rois, sizes, logits, deltas)
    theirs = _postprocess([len(inputs.rois) for inputs in images], rois, logits, deltas, sizes.tolist())

    def check() -> None:
        ours()
        expected = box_detections(*(t.cpu() for t in (rois, sizes, logits, deltas)), **_DETECTIONS)
        found = [output.cpu() for output in outputs]
        for i, wanted in enumerate(expected.num_detections.tolist()):
            ours_of_image = boxes_of_classes(found[1][i], found[3][i], int(found[0][i]))
            check_same_boxes(ours_of_image, boxes_of_classes(expected.boxes[i], expected.labels[i], wanted))

    scores = logits.float().softmax(-1)[:, 1:]
    density = float((scores > _DETECTIONS["score_threshold"]).float().mean())
    return Case(
        name=f"BoxDetections {count} RoIs x {classes} classes, {element}, {density:.1%} over the threshold",
        batch=len(images),
        boxes=images[0].origin,
        implementations=_implementations(ours, theirs),
        density=density,
        work=Work(
            moved_bytes=bytes_of(logits, rois, *outputs) + round(density * scores.numel()) * 4 * deltas.element_size()
        ),
        target_us=15.0 if (len(images), classes) == (1, 91) and density <= _USUAL else None,
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
    ours, (out,) = _bound(operator, torch.tensor(rows, device="cuda"), H=canvas[0], W=canvas[1])

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


def _implementations(ours: Callable[[], None], theirs: Callable[[], object]) -> tuple[Implementation, ...]:
    return (
        Implementation(name=OURS, run=ours, capturable=True),
        Implementation(name=OURS_FROM_PYTHON, run=ours, capturable=False),
        Implementation(name=THEIRS, run=theirs, capturable=False),  # it waits for sizes that only the GPU knows
    )


def _bound(operator: LoadedOperator, *arrays: Tensor, **sizes: int) -> tuple[Callable[[], None], list[Tensor]]:
    """Return a call of the operator on PyTorch's current stream, and its outputs."""
    shapes = [tuple(array.shape) for array in arrays]
    layouts = {name: layout for loaded in operator.kernels for name, layout in loaded.kernel.layouts.items()}
    outputs = []
    for tensor, shape in zip(operator.outputs, operator.output_shapes(*shapes, **sizes), strict=True):
        kind = torch.channels_last if layouts.get(tensor.name) == "channels_last" else torch.contiguous_format
        outputs.append(torch.empty(shape, dtype=getattr(torch, tensor.element), device="cuda", memory_format=kind))
    scratch = torch.empty(operator.scratch_bytes(*shapes, **sizes), dtype=torch.uint8, device="cuda")

    def run() -> None:
        operator(*arrays, out=outputs, scratch=scratch, stream=torch.cuda.current_stream())

    return run, outputs


def _padded_rois(images: Sequence[Inputs]) -> Tensor:
    count = max(len(inputs.rois) for inputs in images)
    rois = torch.tensor(_ABSENT).repeat(len(images), count, 1)
    for padded, inputs in zip(rois, images, strict=True):
        padded[: len(inputs.rois)] = inputs.rois
    return rois.cuda()


def boxes_of_classes(boxes: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return rows of boxes and label, so that a box of another class is far away."""
    return torch.cat([boxes[:count], 1e4 * labels[:count, None]], dim=1)


def check_same_boxes(found: Tensor, expected: Tensor, *, differing: float = 0.01) -> None:
    """Raise AssertionError unless nearly all rows of each have a row of the other within a hundredth of a pixel.

    A share may differ: exp of a GPU differs in its last bits, and so may a decision near a threshold.
    """
    for rows, others in ((found, expected), (expected, found)):
        if len(rows) == 0 or len(others) == 0:
            assert len(rows) == len(others), f"{len(found)} boxes, expected {len(expected)}"
            continue
        far = torch.cdist(rows.double(), others.double(), p=torch.inf).amin(1) > _SAME_PX
        assert float(far.double().mean()) <= differing, f"{int(far.sum())} of {len(rows)} boxes are wrong"


def _filter_proposals(
    anchors: Tensor, objectness: Sequence[Tensor], deltas: Sequence[Tensor], sizes: list[list[int]]
) -> Callable[[], object]:
    """Return torchvision's way from the RPN head's outputs to proposals, over anchors that it has in its cache."""
    network: Any = object.__new__(RegionProposalNetwork)
    torch.nn.Module.__init__(network)
    network._pre_nms_top_n = network._post_nms_top_n = {"training": PROPOSALS, "testing": PROPOSALS}
    network.nms_thresh, network.score_thresh, network.min_size = 0.7, 0.0, 1e-3
    network.eval()
    coder = BoxCoder(weights=_PROPOSALS["box_weights"])
    grid = [_grid(anchors[anchors[:, 0] == level, 1:], m) for level, m in enumerate(objectness)]
    per_level = [len(rows) for rows in grid]
    all_anchors = [torch.cat(grid).cuda()] * len(sizes)
    shapes = [(height, width) for height, width in sizes]

    def run() -> object:
        logits, flat = concat_box_prediction_layers([m.float() for m in objectness], [m.float() for m in deltas])
        boxes = coder.decode(flat, all_anchors).view(len(sizes), -1, 4)
        return network.filter_proposals(boxes, logits, shapes, per_level)

    return run


def _grid(cell_anchors: Tensor, level: Tensor) -> Tensor:
    height, width = level.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height) * (CANVAS[0] // height), torch.arange(width) * (CANVAS[1] // width), indexing="ij"
    )
    shifts = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell_anchors).reshape(-1, 4)


def _postprocess(
    counts: Sequence[int], rois: Tensor, logits: Tensor, deltas: Tensor, sizes: list[list[int]]
) -> Callable[[], object]:
    """Return torchvision's way from the box predictor's outputs to detections, of the present RoIs."""
    heads: Any = object.__new__(RoIHeads)
    torch.nn.Module.__init__(heads)
    heads.box_coder = BoxCoder(weights=_DETECTIONS["box_weights"])
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.05, 0.5, 100
    present = torch.cat([torch.arange(rois.shape[1]) < count for count in counts]).cuda()
    proposals = [of_image[:count] for of_image, count in zip(rois, counts, strict=True)]
    some_logits, some_deltas = logits[present].float(), deltas[present].float()
    shapes = [(height, width) for height, width in sizes]
    return lambda: heads.postprocess_detections(some_logits, some_deltas, proposals, shapes)


def _thresholds() -> tuple[float, ...]:
    mapper = initLevelMapper(2, 5, 224, 4)

    def level_of_side(side: float) -> int:
        level = torch.floor(mapper.lvl0 + torch.log2(torch.tensor(side) / mapper.s0) + torch.tensor(mapper.eps))
        return int(level.clamp(mapper.k_min, mapper.k_max)) - int(mapper.k_min)

    return level_thresholds(level_of_side, coarsest_level=3)
