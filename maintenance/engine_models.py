"""What the engine benchmark and the GPU tests run: checkpoints, their exports and artifacts, and images.

``python -m maintenance.engine_models -o folder/ [--models demo r50] [--target tensorrt]`` makes them; exports and
artifacts for TensorRT-RTX on any system, without a GPU. A GPU system that lacks the exporter's packages can be handed
the folder. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn

from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.errors import UsageError
from frcnn.files import replacing, writable_folder
from frcnn.runtime.images.image import RGBImage
from frcnn.spec import Precision
from frcnn.spec.engine import Target
from maintenance.calibrated import calibrate

__all__ = ["MODELS", "EngineModel", "Files", "draw_images", "load_images", "main", "make"]

_DEMO: Final = Path(__file__).resolve().parents[1] / "examples" / "train_demo"
_IMAGES: Final = "images.npz"
_WIDE: Final = (1000, 600)  # width, height: 3:5, so that resizing to 800 fills a canvas of 800 x 1344
_IMAGES_OF: Final = {"demo": 12, "r50": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """A model to run.

    Attributes:
        name: which.
        size: what its artifact takes, as ``frcnn build --size`` has it; None: every canvas of the model.
        batch: likewise, ``--batch``.
        precisions: what it is exported and built in.
        is_trained: whether its detections mean something, so that they are held to the limits of parity.
    """

    name: str
    size: str | None
    batch: str
    precisions: tuple[Precision, ...]
    is_trained: bool

    def eager(self, folder: Path) -> FasterRCNN:
        """Return torchvision's own model with the weights of ``make``, in eval mode, on the CPU."""
        weights = torch.load(_weights(self.name, folder), map_location="cpu", weights_only=True)
        model = _untrained(self.name)
        model.load_state_dict(weights["model"] if self.name == "demo" else weights)
        return model


MODELS: Final = {
    model.name: model
    for model in (
        EngineModel(name="demo", size=None, batch="1:1:8", precisions=("fp32", "fp16"), is_trained=True),
        EngineModel(name="r50", size="800x1344", batch="1:1:8", precisions=("fp16",), is_trained=False),
    )
}
"""The shipped demo, and R50-FPN with calibrated random weights: its speed does not depend on their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where a model's files are, in one precision."""

    onnx: Path
    artifact: Path

    @classmethod
    def of(cls, folder: Path, name: str, precision: Precision) -> Files:
        """Return where ``make`` puts them."""
        return cls(onnx=folder / f"{name}-{precision}.onnx", artifact=folder / f"{name}-{precision}.frcnn")


def make(
    folder: Path,
    models: Sequence[EngineModel],
    *,
    precisions: Sequence[Precision] | None = None,
    target: Target | None = "tensorrt-rtx",
) -> None:
    """Make what is not there yet.

    Args:
        folder: where.
        models: which.
        precisions: only these of a model's own; None: all.
        target: what the artifacts are built for; None: exports alone.

    Raises:
        MissingDependencyError: a package of ``frcnn[export]`` or of the target is not installed.
        UsageError: the target builds on a GPU, and there is none.
    """
    from frcnn.exporter import build_engine, export_onnx

    writable_folder(folder)
    for model in models:
        draw_images(folder, model.name)
        _make_weights(folder, model.name)
        for precision in model.precisions:
            if precisions is not None and precision not in precisions:
                continue
            files = Files.of(folder, model.name, precision)
            if not files.onnx.exists():
                export_onnx(model.eager(folder), files.onnx, precision=precision, architecture=model.name)
            if target is not None and not files.artifact.exists():
                build_engine(files.onnx, files.artifact, target=target, batch=model.batch, size=model.size)


def draw_images(folder: Path, name: str) -> None:
    """Draw the images of a model, where they are not there yet; needs scikit-learn and scikit-image."""
    path = folder / f"{name}-{_IMAGES}"
    if path.exists():
        return
    with patch.object(sys, "path", [str(_DEMO), *sys.path]):
        scenes = importlib.import_module("scenes")
    sizes: dict[str, Any] = {"size": _WIDE} if name == "r50" else {}
    drawn = {
        f"scene {seed:02d}": np.asarray(scenes.compose(np.random.default_rng(seed), **sizes)[0], np.uint8)
        for seed in range(_IMAGES_OF[name])
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = drawn
        np.savez_compressed(file, **arrays)


def load_images(folder: Path, name: str) -> list[RGBImage]:
    """Return the images of a model that ``make`` has kept.

    Raises:
        UsageError: there are none.
    """
    path = folder / f"{name}-{_IMAGES}"
    if not path.is_file():
        raise UsageError(f"there is no {path}", hint=f"python -m maintenance.engine_models -o {folder} --models {name}")
    with np.load(path) as saved:
        return [RGBImage(pixels=saved[key], name=key) for key in sorted(saved.files)]


def _weights(name: str, folder: Path) -> Path:
    return _DEMO / "digits.pth" if name == "demo" else folder / f"{name}.pth"


def _untrained(name: str) -> FasterRCNN:
    if name == "r50":
        return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).eval()
    with patch.object(sys, "path", [str(_DEMO), *sys.path]):
        model: FasterRCNN = importlib.import_module("model").build()
    return model.eval()


def _make_weights(folder: Path, name: str) -> None:
    path = _weights(name, folder)
    if path.exists():
        return
    torch.manual_seed(0)
    model = _untrained(name)
    calibrate(model, [to_tensor(image) for image in load_images(folder, name)[:2]])
    with replacing(path) as temporary:
        torch.save(model.state_dict(), temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    targets = ("tensorrt-rtx", "tensorrt", "none")
    parser.add_argument("--target", choices=targets, default=targets[0], help="of the artifacts; none: exports alone")
    chosen = parser.parse_args(arguments)
    target = None if chosen.target == "none" else chosen.target
    make(chosen.output, [MODELS[name] for name in chosen.models], target=target)
    for path in sorted(chosen.output.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
