"""Where the time of one image goes, stage by stage."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import numpy as np
import torch
from PIL import Image

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.eager import EagerRunner
from frcnn.benchmarks.profile.inputs import Inputs
from frcnn.benchmarks.profile.onnx_profile import COARSE, profile_onnx
from frcnn.benchmarks.profile.profile import stage_times
from frcnn.benchmarks.report.results import StageName, StageShare
from frcnn.benchmarks.timing.measure import wall_ms
from frcnn.runtime import RGBImage
from frcnn.runtime.images.preprocess import place
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact

_REPEATS: Final = 3
_JPEG_QUALITY: Final = 90


def shares(stages: Mapping[StageName, float]) -> tuple[StageShare, ...]:
    """Return stages in the order that data flows, with their shares."""
    whole = sum(stages.values()) or 1.0
    order: tuple[StageName, ...] = get_args(StageName)
    return tuple(StageShare(name=name, ms=stages[name], share=stages[name] / whole) for name in order if name in stages)


def decode_ms(images: Sequence[RGBImage], files: Sequence[Path]) -> float:
    """Return the median milliseconds from a file's bytes to RGB; images without files are first written as JPEG."""
    if files:
        return median(wall_ms(lambda: RGBImage.open(file)) for file in files)  # noqa: B023
    times = []
    for image in images:
        held = io.BytesIO()
        Image.fromarray(image.uint8()).save(held, "JPEG", quality=_JPEG_QUALITY)
        times.append(wall_ms(lambda: np.asarray(Image.open(held).convert("RGB"))))  # noqa: B023
    return median(times)


def onnx_stages(path: Path, image: RGBImage, *, threads: int) -> dict[StageName, float]:
    """Return the stages of our file in ONNX Runtime on the CPU, but for decoding."""
    artifact = open_artifact(path)
    assert isinstance(artifact, OnnxArtifact)
    placed = place(image, artifact.manifest.model.transform, canvases_of(artifact.manifest))
    inputs = Inputs(canvas=placed.canvas, placed=(placed,), files=(), left_out=())
    measured = profile_onnx(artifact, inputs, batch=1, repeats=_REPEATS, threads=threads)
    stages: dict[StageName, float] = defaultdict(float)
    for stage in stage_times(measured.runs, measured.more):
        if stage.name in COARSE:
            stages[COARSE[stage.name]] += stage.ms
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
            whole = wall_ms(lambda: runner.detect([image]), _now)
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
