"""Where the time of one image goes, stage by stage."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import numpy as np
import torch
from PIL import Image

from frcnn.benchmarks.candidates.artifacts import onnx_manifest
from frcnn.benchmarks.candidates.eager import EagerRunner
from frcnn.benchmarks.profile.onnx_layers import network_stage_ms
from frcnn.benchmarks.report.results import StageName, StageShare
from frcnn.runtime import RGBImage
from frcnn.runtime.images.preprocess import boxes_in_image, prepare

__all__ = ["decode_ms", "eager_stages", "onnx_stages", "shares"]

_REPEATS: Final = 5
_JPEG_QUALITY: Final = 90


def shares(stages: Mapping[StageName, float]) -> tuple[StageShare, ...]:
    """Return stages in the order that data flows, with their shares."""
    whole = sum(stages.values()) or 1.0
    order: tuple[StageName, ...] = get_args(StageName)
    return tuple(StageShare(name=name, ms=stages[name], share=stages[name] / whole) for name in order if name in stages)


def decode_ms(images: Sequence[RGBImage], files: Sequence[Path]) -> float:
    """Return the median milliseconds from a file's bytes to RGB; images without files are first written as JPEG."""
    if files:
        return median(_ms(lambda: RGBImage.open(file)) for file in files)  # noqa: B023
    times = []
    for image in images:
        held = io.BytesIO()
        Image.fromarray(image.uint8()).save(held, "JPEG", quality=_JPEG_QUALITY)
        times.append(_ms(lambda: np.asarray(Image.open(held).convert("RGB"))))  # noqa: B023
    return median(times)


def onnx_stages(path: Path, image: RGBImage, *, threads: int) -> dict[StageName, float]:
    """Return the stages of our file in ONNX Runtime on the CPU, but for decoding."""
    manifest = onnx_manifest(path)
    placed = prepare(image, manifest)
    kind = np.float16 if manifest.precision == "fp16" else np.float32
    feeds = {"images": placed.pixels[None].astype(kind), "image_sizes": np.array([placed.resized], np.int32)}
    preparing = median(_ms(lambda: prepare(image, manifest)) for _ in range(_REPEATS))
    stages: dict[StageName, float] = {"preprocess": preparing, **network_stage_ms(path, feeds, threads=threads)}
    boxes = np.zeros((manifest.model.roi_heads.detections_per_img, 4), np.float32)
    stages["post"] += median(_ms(lambda: boxes_in_image(boxes, placed)) for _ in range(_REPEATS))
    return stages


def eager_stages(runner: EagerRunner, image: RGBImage) -> dict[StageName, float]:
    """Return the stages of torchvision's model, but for decoding, by hooks on its modules; a GPU is waited for."""
    times: dict[StageName, float] = {}
    began: list[float] = []
    model: Any = runner.model
    modules: dict[StageName, list[Any]] = {
        "preprocess": [model.transform],
        "backbone+FPN": [model.backbone],
        "RPN": [model.rpn],
        "RoI pooling": [model.roi_heads.box_roi_pool],
        "box head": [model.roi_heads.box_head, model.roi_heads.box_predictor],
    }

    def end(stage: StageName) -> None:
        times[stage] = times.get(stage, 0.0) + (_now() - began.pop()) * 1e3

    runner.detect([image])
    runs: dict[StageName, list[float]] = defaultdict(list)
    handles = []
    for stage, those in modules.items():
        for module in those:
            handles.append(module.register_forward_pre_hook(lambda *_: began.append(_now())))
            handles.append(module.register_forward_hook(lambda *_, stage=stage: end(stage)))
    try:
        for _ in range(_REPEATS):
            times.clear()
            whole = _ms(lambda: runner.detect([image]))
            times["post"] = max(0.0, whole - sum(times.values()))
            for stage, ms in times.items():
                runs[stage].append(ms)
    finally:
        for handle in handles:
            handle.remove()
    return {stage: median(of_stage) for stage, of_stage in runs.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _ms(call: Callable[[], object]) -> float:
    started = _now()
    call()
    return (_now() - started) * 1e3
