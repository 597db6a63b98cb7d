"""Run ``frcnn bench`` on the models whose figures are committed, and make what they need.

``python -m maintenance.bench_models --int8 --results benchmarks/results`` measures the models on the CPU: eager, and
their float32 and int8 exports in every provider.
``--target tensorrt-rtx --device cuda`` first exports them and builds their artifacts, and measures those on a GPU.
Options of ``frcnn bench`` are handed on: ``--int8 --models mobilenet-v3-320 --batch 1 --budget 60 -o FOLDER`` is a
short try.

The weights are random but calibrated (``calibrated.py``): speed depends on them only through the number of proposals
and detections, which are in the results. What is in the folder already is not made again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.benchmarks.candidates.images import default_images
from frcnn.benchmarks.trial import ARCHITECTURE, CHECKPOINT
from frcnn.cli import main as frcnn
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES
from frcnn.files import replacing, writable_folder
from frcnn.spec import Precision
from frcnn.spec.engine import TARGETS
from maintenance.calibrated import calibrate
from maintenance.int8_models import annotated_scenes, quantize_random, quantize_with_gate

DEMO: Final = Path(__file__).resolve().parents[1] / "examples" / "train_demo"
_DELTA_STD: Final = 0.05
"""So small that rounding, which random weights amplify, stays within the limits of ``frcnn compare``."""
_EQUAL_SCENES: Final = (16, (520, 390))
"""Of one size, and of one that torchvision's own export resizes as torchvision does: it is off by pixels in others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchModel:
    """A model to measure.

    Attributes:
        name: of its files.
        arch: as ``--arch`` takes it.
        precisions: that its artifacts are made in.
        size: canvas of its artifacts, as ``frcnn build --size`` takes it; None for every canvas of the model.
        scenes: how many images are drawn for a GPU, and their (width, height); None for the scenes' own size.
        is_trained: whether the weights are; random ones are calibrated.
    """

    name: str
    arch: str
    precisions: tuple[Precision, ...] = ("fp16",)
    size: str | None = None
    scenes: tuple[int, tuple[int, int] | None] = (4, None)
    is_trained: bool = False


_FULL_SIZE: Final = (
    # 3:5, so that resizing to 800 fills a canvas of 800 x 1344
    BenchModel(name="resnet50-fpn", arch="fasterrcnn_resnet50_fpn", size="800x1344", scenes=(4, (1000, 600))),
    BenchModel(name="mobilenet-v3-fpn", arch="fasterrcnn_mobilenet_v3_large_fpn"),
    BenchModel(name="mobilenet-v3-320", arch="fasterrcnn_mobilenet_v3_large_320_fpn"),
)
_DEMO_MODEL: Final = BenchModel(
    name="demo", arch=ARCHITECTURE, precisions=("fp32", "fp16"), scenes=(12, None), is_trained=True
)
MODELS: Final = {model.name: model for model in (*_FULL_SIZE, _DEMO_MODEL)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where a model's files are, in one precision."""

    onnx: Path
    artifact: Path

    @classmethod
    def of(cls, folder: Path, name: str, precision: Precision) -> Files:
        """Return where ``make_artifacts`` puts them."""
        return cls(onnx=folder / f"{name}-{precision}.onnx", artifact=folder / f"{name}-{precision}.frcnn")


def checkpoint_of(folder: Path, model: BenchModel) -> Path:
    """Return a model's checkpoint: the demo's own, or calibrated random weights, which are made where missing."""
    if model.is_trained:
        return CHECKPOINT
    path = folder / f"{model.name}.pth"
    if not path.exists():
        torch.manual_seed(0)
        detector: Any = ARCHITECTURES[model.arch](num_classes=91).eval()
        calibrate(detector, [to_tensor(image) for image in default_images().images[:2]], delta_std=_DELTA_STD)
        with replacing(path) as temporary:
            torch.save(detector.state_dict(), temporary)
    return path


def draw_images(folder: Path, model: BenchModel) -> Path:
    """Return a folder of images for a model, drawn where missing; that needs scikit-learn and scikit-image."""
    path = writable_folder(folder / f"{model.name}-images")
    count, size = model.scenes
    missing = [seed for seed in range(count) if not (path / f"scene-{seed:02d}.png").exists()]
    if missing:
        with patch.object(sys, "path", [str(DEMO), *sys.path]):
            compose = importlib.import_module("scenes").compose
        if size is not None:
            compose = partial(compose, size=size)
        for seed in missing:
            scene = np.asarray(compose(np.random.default_rng(seed))[0], np.uint8)
            with replacing(path / f"scene-{seed:02d}.png") as temporary:
                Image.fromarray(scene).save(temporary)
    return path


def make_artifacts(folder: Path, model: BenchModel, *, target: str) -> list[Path]:
    """Export a model and build its artifacts, in all its precisions, where they are missing.

    Args:
        folder: where.
        model: which.
        target: of ``frcnn build``; ``"none"`` for exports alone.

    Returns:
        the exports and artifacts.

    Raises:
        SystemExit: ``frcnn export`` or ``frcnn build`` failed.
    """
    made = []
    writable_folder(folder)
    for precision in model.precisions:
        files = Files.of(folder, model.name, precision)
        made.append(exported(folder, model, precision))
        if target == "none":
            continue
        if not files.artifact.exists():
            size = () if model.size is None else ("--size", model.size)
            _run("build", files.onnx, "-o", files.artifact, "--target", target, "--batch", "1:1:8", *size)
        made.append(files.artifact)
    return made


def make_int8(folder: Path, model: BenchModel) -> list[Path]:
    """Export a model in float32 and quantise that, where they are missing; return both files.

    Raises:
        SystemExit: ``frcnn export`` or ``frcnn quantize`` failed.
    """
    writable_folder(folder)
    source = exported(folder, model, "fp32")
    quantised = Files.of(folder, model.name, "int8").onnx
    if not quantised.exists() and model.is_trained:
        quantize_with_gate(source, quantised, annotated_scenes(folder / "annotated-scenes", DEMO), frcnn=frcnn)
    elif not quantised.exists():
        quantize_random(source, quantised)
    return [source, quantised]


def exported(folder: Path, model: BenchModel, precision: Precision) -> Path:
    """Return a model's export, which is made where missing.

    Raises:
        SystemExit: ``frcnn export`` failed.
    """
    path = Files.of(folder, model.name, precision).onnx
    if not path.exists():
        checkpoint = checkpoint_of(folder, model)
        _run("export", checkpoint, "--arch", model.arch, "-o", path, "--precision", precision)
    return path


def _run(*arguments: object) -> None:
    """Run a command; its paths are relative to this folder, for results state it and are committed."""
    if code := frcnn([str(argument).replace(f"{Path.cwd()}{os.sep}", "") for argument in arguments]):
        raise SystemExit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the files of each model, and measure it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/bench"),
        help="folder of files and reports (default: %(default)s)",
    )
    names = [model.name for model in _FULL_SIZE]
    text = f"of {', '.join(MODELS)} (default: all but demo)"
    parser.add_argument("--models", nargs="+", metavar="MODEL", choices=tuple(MODELS), default=names, help=text)
    parser.add_argument("--int8", action="store_true", help="export and quantise, and measure both files")
    parser.add_argument(
        "--target", choices=("auto", *TARGETS, "none"), help="export, build, measure that; none: export only"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where eager runs (default: cpu)")
    parser.add_argument("--results", type=Path, help="also write results to FOLDER/<model>-<device>.json")
    parser.add_argument("--make-only", action="store_true", help="measure nothing")
    chosen, options = parser.parse_known_args(arguments)
    folder = writable_folder(chosen.output)
    for model in (MODELS[name] for name in chosen.models):
        checkpoint = checkpoint_of(folder, model)
        artifacts = [] if chosen.target is None else make_artifacts(folder, model, target=chosen.target)
        artifacts += [path for path in make_int8(folder, model) if path not in artifacts] if chosen.int8 else []
        images = []
        if chosen.target is not None:
            images = ["--images", draw_images(folder, model)]
        elif model.is_trained:
            images = ["--images", draw_images(folder, replace(model, name=f"{model.name}-equal", scenes=_EQUAL_SCENES))]
        if chosen.make_only:
            continue
        report = folder / f"{model.name}-{chosen.device}"
        where = ["--arch", model.arch, "--device", chosen.device, "-o", report]
        where += [] if model.is_trained else ["--random-weights"]
        _run("bench", checkpoint, *artifacts, *where, *images, *options)
        if chosen.results is not None:
            name = f"{model.name}-{chosen.device}.json"
            shutil.copyfile(report / "results.json", writable_folder(chosen.results) / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
