"""Small engine artifacts that need no TensorRT: a manifest such as a build writes, and random bytes for engines."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from frcnn.files.archive import write_archive
from frcnn.spec import Manifest, ModelSpec, PoolerSpec, Precision, RoIHeadsSpec, RPNSpec, Size, TransformSpec
from frcnn.spec.engine import (
    ENGINE_SCHEMA_VERSION,
    PRECISION_PART,
    EngineManifest,
    EngineStep,
    EngineTensor,
    MemoryNeeds,
    OperatorStep,
    Part,
    PrecisionRecord,
    Profile,
    Range,
    Target,
    kernel_part,
)

RTX_VERSION = "1.7.1.116"
NO_MEMORY = MemoryNeeds(weights_bytes=0, tensors_bytes=0, workspace_bytes=0)
_CODER = {"box_weights": (10.0, 10.0, 5.0, 5.0), "max_log_scale": 4.135, "iou_threshold": 0.5, "min_size": 0.01}
_PROPOSALS = _CODER | {
    "anchors": tuple(float(number) for level in range(3) for number in (level, -8, -8, 8, 8)),
    "pre_nms_top_n": 1000,
    "post_nms_top_n": 1000,
    "iou_threshold": 0.7,
    "score_threshold": 0.0,
}
_ALIGN = {"spatial_scales": (0.25, 0.125), "level_thresholds": (112.0,), "sampling_ratio": 2, "aligned": 0}
_DETECTIONS = _CODER | {"score_threshold": 0.05, "max_detections": 100}
_KERNELS = ("region_proposals", "multiscale_roi_align", "box_detections", "preprocess")
_LEVELS = tuple(f"{name}_{level}" for name in ("objectness", "deltas") for level in range(3))
_MAPS = ("features_0", "features_1")
_VERSIONS: dict[Target, str] = {"tensorrt-rtx": RTX_VERSION, "tensorrt": "10.13.3.9", "onnxruntime": "1.31.1"}
_ELEMENT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def source_manifest(*, precision: Precision = "fp16", canvases: tuple[Size, ...] | None = None) -> Manifest:
    """Return the manifest of a ``model.onnx`` with two pooled levels and three classes."""
    pooler = PoolerSpec(
        kind="align",
        feature_names=("0", "1"),
        spatial_scales=(0.25, 0.125),
        level_thresholds=(112.0,),
        output_size=(7, 7),
        sampling_ratio=2,
    )
    model = ModelSpec(
        architecture="fasterrcnn_tiny_fpn",
        num_classes=4,
        labels=("__background__", "cat", "dog", "teddy bear"),
        transform=TransformSpec(
            min_size=800,
            max_size=1333,
            fixed_size=None,
            size_divisible=32,
            image_mean=(0.485, 0.456, 0.406),
            image_std=(0.229, 0.224, 0.225),
        ),
        rpn=RPNSpec(
            num_levels=3,
            anchors_per_location=(3, 3, 3),
            pre_nms_top_n=1000,
            post_nms_top_n=1000,
            nms_thresh=0.7,
            score_thresh=0.0,
        ),
        roi_heads=RoIHeadsSpec(pooler=pooler, score_thresh=0.05, nms_thresh=0.5, detections_per_img=100),
    )
    return Manifest(
        schema_version=1,
        model=model,
        precision=precision,
        canvases=canvases,
        opset=20,
        versions={"torch": "2.14.1"},
        source_sha256=None,
        assumptions=(),
    )


def static_profile(height: int, width: int, batch: tuple[int, int, int] = (1, 1, 8)) -> Profile:
    minimum, opt, maximum = batch
    return Profile(
        batch=Range(min=minimum, opt=opt, max=maximum),
        height=Range(min=height, opt=height, max=height),
        width=Range(min=width, opt=width, max=width),
    )


def engine_parts(
    *,
    target: Target = "tensorrt-rtx",
    precision: Precision = "fp16",
    architectures: tuple[str, ...] = ("sm_80", "sm_89", "compute_75"),
    part_bytes: int = 100,
    seed: int = 0,
) -> dict[str, bytes]:
    """Return the parts of an artifact: random bytes where engines and kernels would be."""
    rng = random.Random(seed)
    split = target != "tensorrt"
    entries = _KERNELS if split else ("preprocess",)
    parts = {name: rng.randbytes(part_bytes) for name in (_networks(target) if split else ("engines/model.plan",))}
    for entry in entries:
        for architecture in architectures:
            parts[kernel_part(entry, "0123456789abcdef", architecture)] = rng.randbytes(part_bytes // 4)
    records = [
        PrecisionRecord(step=0, layer="/backbone/conv", type="CONVOLUTION", element=_ELEMENT[precision], heavy=True),
        PrecisionRecord(step=0, layer="/rpn/decode/exp", type="UNARY", element="float32", heavy=False),
    ]
    parts[PRECISION_PART] = msgspec.json.encode(records)
    return parts


def listed_parts(parts: Mapping[str, bytes]) -> dict[str, Part]:
    return {name: Part(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in parts.items()}


def engine_manifest(
    parts: Mapping[str, Part], *, target: Target = "tensorrt-rtx", precision: Precision = "fp16", **changes: Any
) -> EngineManifest:
    """Return a manifest of those parts; the target decides the steps, and ``changes`` are other fields."""
    split = target != "tensorrt"
    tensors = {"images": "float32", "image_sizes": "int32", "num_detections": "int32", "labels": "int32"}
    tensors |= dict.fromkeys(("boxes", "scores"), "float32")
    if split:
        made = (*_LEVELS, *_MAPS, "pooled", "class_logits", "box_deltas")
        tensors |= {"rois": "float32"} | dict.fromkeys(made, _ELEMENT[precision])
    maps = "nhwc" if target == "onnxruntime" else "channels_last"
    fields: dict[str, Any] = {
        "schema_version": ENGINE_SCHEMA_VERSION,
        "source": source_manifest(precision=precision),
        "source_onnx_sha256": "0f" * 32,
        "target": target,
        "target_version": _VERSIONS[target],
        "version_compatible": False,
        "cuda_major": 13,
        "precision": precision,
        "profiles": (static_profile(800, 1344), static_profile(1344, 800)),
        "compute_capabilities": () if split else ("8.9",),
        "architectures": ("sm_80", "sm_89", "compute_75"),
        "tensors": {
            name: EngineTensor(element=element, layout=maps if name in _MAPS else "planar")
            for name, element in tensors.items()
        },
        "steps": _split_steps(target) if split else _plan_steps(),
        "parts": dict(parts),
        "memory": MemoryNeeds(weights_bytes=3 << 20, tensors_bytes=2 << 20, workspace_bytes=1 << 20),
        "versions": {"frcnn": "0.1.0", target: _VERSIONS[target]},
    }
    return EngineManifest(**fields | changes)


def write_engine_file(path: Path, *, parts: Mapping[str, bytes] | None = None, **changes: Any) -> Path:
    """Write an artifact, by default of :func:`engine_parts`, with changes to the manifest, and return its path."""
    choices = {name: changes[name] for name in ("target", "precision", "architectures") if name in changes}
    contents = engine_parts(**choices) if parts is None else parts
    write_archive(path, lambda listed: engine_manifest(listed, **changes).to_json(), contents.items())
    return path


def _plan_steps() -> tuple[EngineStep, ...]:
    outputs = ("num_detections", "boxes", "scores", "labels")
    return (EngineStep(part="engines/model.plan", inputs=("images", "image_sizes"), outputs=outputs),)


def _networks(target: Target) -> tuple[str, str]:
    suffix = "onnx" if target == "onnxruntime" else "plan"
    return f"engines/features.{suffix}", f"engines/boxes.{suffix}"


def _split_steps(target: Target) -> tuple[EngineStep | OperatorStep, ...]:
    features, boxes = _networks(target)
    return (
        EngineStep(part=features, inputs=("images",), outputs=(*_LEVELS, *_MAPS)),
        OperatorStep(
            node="rpn/RegionProposals",
            operator="RegionProposals",
            attributes=_PROPOSALS,
            inputs=("image_sizes", "images", *_LEVELS),
            outputs=("rois",),
        ),
        OperatorStep(
            node="roi_heads/MultiscaleRoIAlign",
            operator="MultiscaleRoIAlign",
            attributes=_ALIGN,
            inputs=("rois", *_MAPS),
            outputs=("pooled",),
        ),
        EngineStep(part=boxes, inputs=("pooled",), outputs=("class_logits", "box_deltas")),
        OperatorStep(
            node="roi_heads/BoxDetections",
            operator="BoxDetections",
            attributes=_DETECTIONS,
            inputs=("rois", "image_sizes", "class_logits", "box_deltas"),
            outputs=("num_detections", "boxes", "scores", "labels"),
        ),
    )
