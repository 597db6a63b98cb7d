"""Read a ``ModelSpec`` from a live torchvision model, independent of its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from frcnn.errors import UnsupportedModelError
from frcnn.exporter.model.pooling import MultiScaleRoIPool
from frcnn.exporter.model.restated import RestatedRoIPooler, RestatedTransform
from frcnn.exporter.model.supported import require_supported
from frcnn.plugins.roi_pooling.level_boundaries import NEVER, level_thresholds
from frcnn.spec import ModelSpec, PoolerSpec, RoIHeadsSpec, RPNSpec, Size, TransformSpec, full_labels


@contextmanager
def _checked() -> Iterator[None]:
    try:
        yield
    except msgspec.ValidationError as error:
        raise UnsupportedModelError(f"the model has a setting out of range: {error}", hint="set it anew") from error
    except AttributeError as error:
        raise UnsupportedModelError(
            f"the model lacks what torchvision {torchvision.__version__} gives one: {error}",
            hint="another version pickled it: take its weights alone, --arch NAME or build().load_state_dict(...)",
        ) from error


@_checked()
def read_model_spec(
    model: torch.nn.Module, *, architecture: str | None = None, labels: Sequence[str] | None = None
) -> ModelSpec:
    """Describe a torchvision ``FasterRCNN`` in eval mode, under the name of its class by default.

    Labels are ``num_classes`` with the background at index 0, or ``num_classes - 1``. Raises UsageError for another
    number, and UnsupportedModelError, which names the part, for a model that cannot be exported.
    """
    detector = require_supported(model)
    rpn, heads = detector.rpn, detector.roi_heads
    num_classes = _num_classes(detector)
    transform = _read_transform(detector)
    canvas = probe_canvas(transform)
    maps = _map_shapes(detector, canvas)
    _check_rpn(detector, list(maps.values()))
    spec = ModelSpec(
        architecture=architecture or type(model).__name__,
        num_classes=num_classes,
        labels=None if labels is None else full_labels(labels, num_classes),
        transform=transform,
        rpn=RPNSpec(
            num_levels=len(rpn.anchor_generator.cell_anchors),
            anchors_per_location=tuple(len(a) for a in rpn.anchor_generator.cell_anchors),
            pre_nms_top_n=int(rpn.pre_nms_top_n()),
            post_nms_top_n=int(rpn.post_nms_top_n()),
            nms_thresh=float(rpn.nms_thresh),
            score_thresh=float(rpn.score_thresh),
        ),
        roi_heads=RoIHeadsSpec(
            pooler=_read_pooler(detector, maps, (transform.fixed_size or canvas)[0]),
            score_thresh=float(heads.score_thresh),
            nms_thresh=float(heads.nms_thresh),
            detections_per_img=int(heads.detections_per_img),
        ),
    )
    return msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec)  # as those who read the file check it


def probe_canvas(transform: TransformSpec) -> Size:
    """Return a canvas on which every stride shows in the sizes of maps: 512 px or more, or the only one there is."""
    if transform.fixed_size is not None:
        return transform.canvas_size(*transform.fixed_size)
    side = max(512, 16 * transform.size_divisible)
    return transform.canvas_size(side, side)


@contextmanager
def _without_data(part: str) -> Iterator[None]:
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnsupportedModelError(
            f"{part}: the computation depends on values in the image ({error.func}), which no graph can express",
            hint="replace the branch or index by operations on whole tensors, such as torch.where",
        ) from error
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"{part}: it does not take what it is given: {next(iter(str(error).splitlines()), type(error).__name__)}",
            hint="call the model on an image first: its parts must fit each other",
        ) from error


def _empty_like(model: GeneralizedRCNN, *shape: int) -> Tensor:
    weight = next(model.backbone.parameters())
    return torch.empty(shape, dtype=weight.dtype, device=weight.device)


def _map_shapes(model: GeneralizedRCNN, canvas: Size) -> dict[str, tuple[int, ...]]:
    """Return the shape of every feature map of one image, by name."""
    with _without_data("backbone"):
        maps = model.backbone(_empty_like(model, 1, image_channels(model), *canvas))
    if isinstance(maps, Tensor):
        maps = {"0": maps}
    return {str(name): tuple(int(size) for size in m.shape) for name, m in maps.items()}


def _check_rpn(model: GeneralizedRCNN, maps: Sequence[tuple[int, ...]]) -> None:
    """Raise UnsupportedModelError unless the head gives a logit and 4 deltas for each anchor of each map's cells."""
    counts = [len(anchors) for anchors in model.rpn.anchor_generator.cell_anchors]
    if len(maps) != len(counts):
        raise UnsupportedModelError(
            f"rpn.anchor_generator: anchors for {len(counts)} feature maps, but the backbone gives {len(maps)}",
            hint="give AnchorGenerator one tuple of sizes and of aspect ratios for each map",
        )
    if 0 in counts:
        raise UnsupportedModelError(
            f"rpn.anchor_generator: no anchors for feature map {counts.index(0)}",
            hint="give AnchorGenerator at least one size and one aspect ratio for each map",
        )
    with _without_data("rpn.head"):
        outputs = model.rpn.head([_empty_like(model, *shape) for shape in maps])
    for what, tensors, per_anchor in zip(("logits", "deltas"), outputs, (1, 4), strict=True):
        found = [tuple(tensor.shape) for tensor in tensors]
        expected = [(1, per_anchor * count, *shape[2:]) for count, shape in zip(counts, maps, strict=True)]
        if found != expected:
            raise UnsupportedModelError(
                f"rpn.head: expected {what} of shape {expected}, {per_anchor} for each anchor, got {found}",
                hint="give RPNHead the number of anchors of AnchorGenerator.num_anchors_per_location()",
            )


def _read_pooler(model: GeneralizedRCNN, shapes: Mapping[str, tuple[int, ...]], side: int) -> PoolerSpec:
    pooler: MultiScaleRoIAlign = model.roi_heads.box_roi_pool
    maps = {name: shape for name, shape in shapes.items() if name in pooler.featmap_names}
    if not maps:
        raise UnsupportedModelError(
            f"roi_heads.box_roi_pool: none of its maps {list(pooler.featmap_names)} is one of the backbone's",
            hint=f"the backbone's are {list(shapes)}",
        )
    wanted, found = int(model.backbone.out_channels), sorted({shape[1] for shape in maps.values()})
    if found != [wanted]:
        raise UnsupportedModelError(
            f"backbone: expected maps of {wanted} channels, its out_channels, to pool from, got {found}",
            hint="maps that are pooled have the same channels",
        )
    height, width = pooler.output_size
    if isinstance(pooler, RestatedRoIPooler):
        return PoolerSpec(
            kind=pooler.kind,
            feature_names=tuple(maps),
            spatial_scales=pooler.spatial_scales,
            level_thresholds=pooler.level_thresholds,
            output_size=(int(height), int(width)),
            sampling_ratio=int(pooler.sampling_ratio),
            aligned=pooler.aligned,
        )
    scales = tuple(2.0 ** round(math.log2(shape[-2] / side)) for shape in maps.values())
    if len(maps) == 1:
        thresholds: tuple[float, ...] = (NEVER,)
    else:
        finest, coarsest = (int(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        mapper = initLevelMapper(finest, coarsest, pooler.canonical_scale, pooler.canonical_level)

        def level_of_side(side_px: float) -> int:
            side_f32 = torch.tensor(side_px, dtype=torch.float32)
            target = torch.floor(mapper.lvl0 + torch.log2(side_f32 / mapper.s0) + torch.tensor(mapper.eps))
            return int(target.clamp(mapper.k_min, mapper.k_max)) - int(mapper.k_min)

        # maps of equal stride share a level: MobileNetV3-FPN always pools the first of its two maps of stride 32
        thresholds = level_thresholds(level_of_side, coarsest_level=coarsest - finest)
        thresholds = (*thresholds, *[NEVER] * (len(maps) - 1 - len(thresholds)))[: len(maps) - 1]
    return PoolerSpec(
        kind="max" if isinstance(pooler, MultiScaleRoIPool) else "align",
        feature_names=tuple(maps),
        spatial_scales=scales,
        level_thresholds=thresholds,
        output_size=(int(height), int(width)),
        sampling_ratio=max(0, int(pooler.sampling_ratio)),
    )


def _num_classes(model: GeneralizedRCNN) -> int:
    heads = model.roi_heads
    with _without_data("roi_heads.box_head or box_predictor"):
        pooled = _empty_like(model, 2, int(model.backbone.out_channels), *heads.box_roi_pool.output_size)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
    if logits.shape[:-1] != (2,) or deltas.shape[:-1] != (2,):
        raise UnsupportedModelError(
            "roi_heads.box_predictor: expected a row of logits and a row of box deltas for each RoI, got "
            f"{tuple(logits.shape)} and {tuple(deltas.shape)} for 2 RoIs",
            hint="the box head may end with a Flatten",
        )
    num_classes, num_deltas = int(logits.shape[-1]), int(deltas.shape[-1])
    if num_classes < 2:
        raise UnsupportedModelError(
            f"roi_heads.box_predictor: expected at least 2 classes, the background and one more, got {num_classes}",
            hint="class 0 is the background, so num_classes counts it",
        )
    if num_deltas != 4 * num_classes:
        raise UnsupportedModelError(
            f"roi_heads.box_predictor: expected 4 box deltas for each of {num_classes} classes, got {num_deltas}",
            hint="class-agnostic box regression is not what torchvision's RoIHeads decodes",
        )
    return num_classes


def _read_transform(model: GeneralizedRCNN) -> TransformSpec:
    transform, fixed = model.transform, model.transform.fixed_size
    if isinstance(transform, RestatedTransform):
        return transform.spec
    return TransformSpec(
        min_size=int(transform.min_size[-1]),
        max_size=int(transform.max_size),
        fixed_size=None if fixed is None else (int(fixed[1]), int(fixed[0])),
        size_divisible=int(transform.size_divisible),
        image_mean=_triple(transform.image_mean),
        image_std=_triple(transform.image_std),
    )


def _triple(values: Sequence[float]) -> Any:
    numbers = tuple(float(v) for v in values)
    return numbers * 3 if len(numbers) == 1 else numbers


def image_channels(model: GeneralizedRCNN) -> int:
    """Return the channels of images that the backbone takes: 3 (RGB) or 1 (grey).

    A mean or std of three values gives any image three channels; otherwise the first convolution tells.
    """
    values = {len(model.transform.image_mean), len(model.transform.image_std)}
    convolutions = (module for module in model.backbone.modules() if isinstance(module, nn.Conv2d))
    channels = max(values - {1}, default=next((convolution.in_channels for convolution in convolutions), 3))
    if channels not in (1, 3):
        raise UnsupportedModelError(
            f"transform and backbone are for images of {channels} channels, expected 3 or 1",
            hint="images are RGB, or grey for a backbone of one channel and a mean and std of one value",
        )
    return channels
