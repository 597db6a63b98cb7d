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
_ALIGN = {"spatial_scales": (0.25, 0.125), "level_thresholds": (112.0,), "sampling_ratio": 2, "aligned": 0}
_NMS_KERNELS = ("grouped_nms_mask", "grouped_nms_resolve")
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
    rtx = target == "tensorrt-rtx"
    engines = [f"engines/{index}.plan" for index in range(4)] if rtx else ["engines/model.plan"]
    entries = (*_NMS_KERNELS, "multiscale_roi_align", "preprocess") if rtx else ("preprocess",)
    parts = {name: rng.randbytes(part_bytes) for name in engines}
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
    rtx = target == "tensorrt-rtx"
    tensors = {"images": "float32", "image_sizes": "int32", "num_detections": "int32", "labels": "int32"}
    tensors |= dict.fromkeys(("boxes", "scores"), "float32")
    if rtx:
        tensors |= dict.fromkeys(("boxes_1", "scores_1", "kept_1", "rois", "boxes_2", "scores_2", "kept_2"), "float32")
        tensors |= dict.fromkeys(("map_0", "map_1", "pooled"), _ELEMENT[precision])
    fields: dict[str, Any] = {
        "schema_version": ENGINE_SCHEMA_VERSION,
        "source": source_manifest(precision=precision),
        "source_onnx_sha256": "0f" * 32,
        "target": target,
        "target_version": RTX_VERSION if rtx else "10.13.3.9",
        "cuda_major": 13,
        "precision": precision,
        "profiles": (static_profile(800, 1344), static_profile(1344, 800)),
        "compute_capabilities": () if rtx else ("8.9",),
        "architectures": ("sm_80", "sm_89", "compute_75"),
        "tensors": {
            name: EngineTensor(element=element, layout="channels_last" if name.startswith("map_") else "planar")
            for name, element in tensors.items()
        },
        "steps": _rtx_steps() if rtx else _plan_steps(),
        "parts": dict(parts),
        "memory": MemoryNeeds(weights_bytes=3 << 20, tensors_bytes=2 << 20, workspace_bytes=1 << 20),
        "versions": {"frcnn": "0.1.0", target: RTX_VERSION},
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


def _rtx_steps() -> tuple[EngineStep | OperatorStep, ...]:
    def engine(index: int, inputs: str, outputs: str) -> EngineStep:
        return EngineStep(part=f"engines/{index}.plan", inputs=tuple(inputs.split()), outputs=tuple(outputs.split()))

    def nms(number: int, threshold: float) -> OperatorStep:
        return OperatorStep(
            node=f"nms_{number}",
            operator="GroupedNMS",
            attributes={"iou_threshold": threshold},
            inputs=(f"boxes_{number}", f"scores_{number}"),
            output=f"kept_{number}",
        )

    pooling = OperatorStep(
        node="pool",
        operator="MultiscaleRoIAlign",
        attributes=_ALIGN,
        inputs=("rois", "map_0", "map_1"),
        output="pooled",
    )
    return (
        engine(0, "images image_sizes", "boxes_1 scores_1 map_0 map_1"),
        nms(1, 0.7),
        engine(1, "boxes_1 kept_1", "rois"),
        pooling,
        engine(2, "pooled rois image_sizes", "boxes_2 scores_2"),
        nms(2, 0.5),
        engine(3, "boxes_2 kept_2", "num_detections boxes scores labels"),
    )
