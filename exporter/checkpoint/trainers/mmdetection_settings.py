"""Read the settings of a Faster R-CNN from a configuration of MMDetection 2 or 3."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

from frcnn.errors import CheckpointError, UnsupportedModelError
from frcnn.exporter.checkpoint.trainers.mmdetection_parts import CONFIG_HINT, Part, frozen, refuse, transforms
from frcnn.exporter.checkpoint.trainers.settings import Settings, Triple

_Anchors = tuple[tuple[tuple[float, float, float, float], ...], ...]

_MIN_LOG_SCALE: Final = math.log(16 / 1000)

_TRANSFORMS: Final = frozenset(
    (
        *("LoadImageFromFile", "LoadAnnotations", "LoadTrackAnnotations", "MultiScaleFlipAug", "TransformBroadcaster"),
        *("Resize", "RandomFlip", "Normalize", "Pad", "ImageToTensor", "DefaultFormatBundle"),
        *("Collect", "PackDetInputs", "PackTrackInputs"),
    )
)
_ONLY: Final[dict[str, dict[str, object]]] = {
    "LoadImageFromFile": {"color_type": "color", "to_float32": False},
    "MultiScaleFlipAug": {"flip": False},
    "Resize": {"interpolation": "bilinear", "backend": "cv2", "scale_factor": None},
    "Pad": {"size": None, "pad_val": 0, "pad_to_square": False},
}
"""The only values of arguments that would change pixels in another way."""


def read_model(config: Mapping[str, Any]) -> Part:
    """Return the model of a configuration, which is checked to be a Faster R-CNN."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError("the configuration has no model = dict(type='FasterRCNN', ...)", hint=CONFIG_HINT)
    beside = {key: config[key] for key in ("train_cfg", "test_cfg") if key in config}  # as MMDetection 2.0 had them
    beside = {key: value for key, value in beside.items() if isinstance(value, Mapping) and "rcnn" in value}
    part = Part(path="model", data={**beside, **model})
    part.check("model")
    if "roi_head" not in model:
        raise CheckpointError("the configuration is of before MMDetection 2: it has no roi_head", hint=CONFIG_HINT)
    for key in ("rpn_head", "roi_head", "backbone"):
        part.part(key)
    return part


def read_necks(model: Part) -> tuple[Part, ...]:
    """Return the necks of a model: none, one or a list of them, in order."""
    given = frozen(model.data.get("neck"))
    listed = given if isinstance(given, tuple) else () if given is None else (given,)
    parts = tuple(Part(path="model", data={"neck": neck}).part("neck") for neck in listed)
    kinds = [part.data.get("type") for part in parts]
    if kinds not in ([], ["FPN"], ["PAFPN"], ["HRFPN"], ["FPN", "BFP"]):
        raise refuse("model.neck", ", ".join(map(str, kinds)))
    return parts


def read_settings(config: Mapping[str, Any], model: Part, architecture: str) -> Settings:
    """Return everything that the weights do not hold.

    Raises UnsupportedModelError for what has no deployable form, CheckpointError for values that make no sense.
    """
    backbone, rpn_head, roi_head = model.part("backbone"), model.part("rpn_head"), model.part("roi_head")
    shared, box_head = roi_head.part("shared_head"), roi_head.part("bbox_head")
    rpn_limits, box_limits = model.part("test_cfg").part("rpn"), model.part("test_cfg").part("rcnn")
    if rpn_head.part("bbox_coder").numbers("target_stds", (1, 1, 1, 1)) != (1, 1, 1, 1):
        raise refuse("model.rpn_head.bbox_coder", "target_stds")
    strides = backbone.counts("strides", (2, 2, 2, 2) if backbone.kind == "RegNet" else (1, 2, 2, 2))
    dilations = backbone.counts("dilations", (1, 1, 1, 1))
    style = backbone.data.get("style", "pytorch") if backbone.kind != "Res2Net" else "pytorch"
    if shared.data:
        strides, dilations = (*strides, shared.count("stride", 2)), (*dilations, shared.count("dilation", 1))
        if shared.data.get("style", "pytorch") != style:
            raise refuse("model.roi_head.shared_head", "style")
    if bool(shared.data) != bool(box_head.data.get("with_avg_pool", False)):
        raise refuse("model.roi_head.bbox_head", "with_avg_pool")
    anchors, anchor_strides = _anchors(rpn_head.part("anchor_generator"))
    is_rgb, mean, std, divisor = _pixels(config, model)
    if divisor % 16 and any(neck.kind == "BFP" for neck in read_necks(model)):
        raise UnsupportedModelError(
            f"model.neck: BFP on canvases that are multiples of {divisor}", hint="multiples of 16 are supported"
        )
    box_head.part("loss_cls")
    coder = box_head.part("bbox_coder")
    weights = tuple(1 / value for value in coder.numbers("target_stds", (0.1, 0.1, 0.2, 0.2), length=4))
    return Settings(
        trainer="mmdetection",
        architecture=architecture,
        **_resize(config, is_new="data_preprocessor" in model.data),
        size_divisible=divisor,
        pixel_mean=mean,
        pixel_std=std,
        channel_order="rgb" if is_rgb else "bgr",
        stride_in_1x1=style == "caffe",
        strides=strides,
        dilations=dilations,
        out_stages=backbone.counts("out_indices", (0, 1, 2, 3), above=-1),
        norm_groups=_norm_groups((backbone, *read_necks(model), box_head)),
        anchors=anchors,
        anchor_strides=anchor_strides,
        rpn_pre_nms_top_n=rpn_limits.count("nms_pre"),
        rpn_post_nms_top_n=min(
            rpn_limits.count(key) for key in ("max_per_img", "max_num", "nms_post") if key in rpn_limits.data
        ),
        rpn_nms_thresh=_nms_thresh(rpn_limits),
        **_pooling(roi_head.part("bbox_roi_extractor"), anchor_strides),
        box_weights=(weights[0], weights[1], weights[2], weights[3]),
        box_score_thresh=box_limits.number("score_thr"),
        box_nms_thresh=_nms_thresh(box_limits),
        box_detections_per_img=box_limits.count("max_per_img"),
        min_log_scale=_MIN_LOG_SCALE,
    )


def _anchors(generator: Part) -> tuple[_Anchors, tuple[int, ...]]:
    """Return the anchors of each level's cell at the origin, in MMDetection's order and rounding, and the strides."""
    strides = tuple(_stride(generator, value) for value in generator.sequence("strides"))
    sizes = generator.numbers("base_sizes", strides, length=len(strides))
    if "octave_base_scale" in generator.data:
        octave = generator.count("scales_per_octave")
        scales = tuple(generator.number("octave_base_scale") * 2 ** (i / octave) for i in range(octave))
    else:
        scales = generator.numbers("scales")
    heights = torch.tensor(generator.numbers("ratios")).sqrt()
    offset, major = generator.number("center_offset", 0), generator.data.get("scale_major", True)
    levels = []
    for size in sizes:
        sides = [size * ratio[:, None] * torch.tensor(scales)[None, :] for ratio in (1 / heights, heights)]
        w, h = ((side if major else side.T).reshape(-1) for side in sides)
        center = offset * size
        corners = torch.stack([center - 0.5 * w, center - 0.5 * h, center + 0.5 * w, center + 0.5 * h], dim=1)
        levels.append(tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in corners.tolist()))
    return tuple(levels), strides


def _stride(generator: Part, value: object) -> int:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or pair[0] != pair[1] or not isinstance(pair[0], int):
        raise refuse(generator.path, "strides")
    return pair[0]


def _pooling(extractor: Part, anchor_strides: tuple[int, ...]) -> dict[str, Any]:
    layer = extractor.part("roi_layer")
    strides = extractor.counts("featmap_strides")
    if strides != anchor_strides[: len(strides)]:
        raise UnsupportedModelError(
            f"boxes are pooled from strides {list(strides)}, and proposals come from {list(anchor_strides)}",
            hint="the levels that are pooled have to be the first of those with anchors",
        )
    old = {
        new: layer.data[key]
        for new, key in (("output_size", "out_size"), ("sampling_ratio", "sample_num"))
        if key in layer.data
    }
    layer = Part(path=layer.path, data={**old, **layer.data})
    sizes = frozen(layer.data.get("output_size"))
    if isinstance(sizes, tuple) and len(set(sizes)) == 1:
        layer = Part(path=layer.path, data={**layer.data, "output_size": sizes[0]})
    return {
        "pooled_levels": len(strides),
        "pool_size": layer.count("output_size"),
        "pool_aligned": bool(layer.data.get("aligned", True)),
        "pool_max": layer.kind == "RoIPool",
        "sampling_ratio": int(layer.number("sampling_ratio", 0)),
        "finest_scale": 2 * extractor.number("finest_scale", 56, above=0),
    }


def _nms_thresh(limits: Part) -> float:
    """Return the IoU threshold; MMDetection 2.0 had other names for it."""
    nms = limits.part("nms")
    named = {**limits.data, **nms.data}
    key = next((key for key in ("iou_threshold", "iou_thr", "nms_thr") if key in named), "iou_threshold")
    return Part(path=nms.path, data=named).number(key)


def _norm_groups(parts: Iterable[Part]) -> int:
    norms = [part.part("norm_cfg") for part in parts]
    counts = {norm.count("num_groups") for norm in norms if norm.kind == "GN"}
    if len(counts) > 1:
        raise UnsupportedModelError(f"norm_cfg: group norms of {sorted(counts)} groups", hint="one number is supported")
    return counts.pop() if counts else 32


def _transforms(config: Mapping[str, Any]) -> dict[str, Part]:
    """Return the transforms of a test image by name; those inside of others and of wrapped data sets, too."""
    loader: Any = config.get("test_dataloader") or config.get("data") or {}
    dataset: Any = loader.get("dataset", loader.get("test")) if isinstance(loader, Mapping) else None
    while isinstance(dataset, Mapping) and "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    own = dataset.get("pipeline") if isinstance(dataset, Mapping) else None
    found: dict[str, Part] = {}
    for transform in transforms(own or config.get("test_pipeline")):
        name = str(transform.get("type"))
        part = found[name] = Part(path=f"test_pipeline.{name}", data=transform)
        if name not in _TRANSFORMS:
            raise refuse("test_pipeline", name)
        for key, value in _ONLY.get(name, {}).items():
            if frozen(transform.get(key, value)) != value:
                raise refuse(part.path, f"{key}={transform[key]!r}")
    return found


def _resize(config: Mapping[str, Any], *, is_new: bool) -> dict[str, Any]:
    """Return the size that images are resized to; version 3 changed what ``keep_ratio`` is where it is not given."""
    found = _transforms(config)
    if "Resize" not in found:
        raise CheckpointError("the configuration resizes no test images (test_pipeline)", hint=CONFIG_HINT)
    resize = found["Resize"]
    key, holder = ("scale", resize) if is_new else ("img_scale", found.get("MultiScaleFlipAug", resize))
    size = frozen(holder.data.get(key))
    if isinstance(size, tuple) and len(size) == 1:  # one of several scales
        size = size[0]
    if isinstance(size, int):
        size = (size, size)
    if not isinstance(size, tuple) or any(isinstance(side, tuple) for side in size):
        raise refuse(holder.path, f"{key}={size!r}")
    width, height = Part(path=holder.path, data={key: size}).counts(key, length=2)
    if not resize.data.get("keep_ratio", not is_new):
        return {"fixed_size": (height, width), "min_size": min(height, width), "max_size": max(height, width)}
    return {"min_size": min(height, width), "max_size": max(height, width)}


def _pixels(config: Mapping[str, Any], model: Part) -> tuple[bool, Triple, Triple, int]:
    """Return whether images are RGB, the mean and std of their pixels, and what a canvas is a multiple of."""
    if "data_preprocessor" in model.data:
        source = model.part("data_preprocessor")
        is_rgb, divisor = bool(source.data.get("bgr_to_rgb", False)), source.count("pad_size_divisor", 1)
    else:
        found = _transforms(config)
        if "Normalize" not in found:
            raise CheckpointError("the configuration normalises no test images (test_pipeline)", hint=CONFIG_HINT)
        source = found["Normalize"]
        is_rgb = bool(source.data.get("to_rgb", True))
        divisor = found["Pad"].count("size_divisor", 1) if "Pad" in found else 1
    mean, std = source.numbers("mean", (0, 0, 0), length=3), source.numbers("std", (1, 1, 1), length=3)
    return is_rgb, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), divisor
