"""The demo's exports, and artifacts for what serves this GPU: $FRCNN_GPU_TARGET, or what ``frcnn build`` chooses."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import pytest
from maintenance import bare_detector
from maintenance.bare_detector import BareDetector
from maintenance.bench_models import MODELS, Files, draw_images, make_artifacts
from torchvision.models.detection import FasterRCNN

from frcnn.benchmarks.trial import CHECKPOINT
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.exporter import load_checkpoint
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.model_files.engine_artifact import open_engine_artifact
from frcnn.spec import ModelSpec, Precision

_REFUSALS = ("refuses the engine", "cannot load the engine", "serves GPUs of compute capability")


TARGET = os.environ.get("FRCNN_GPU_TARGET", "auto")


@cache
def models_folder() -> Path:
    """Return the folder with the demo's files: $FRCNN_GPU_MODELS, or a new one, filled in about a minute."""
    folder = Path(os.environ.get("FRCNN_GPU_MODELS") or tempfile.mkdtemp(prefix="frcnn-gpu-models-"))
    make_artifacts(folder, MODELS["demo"], target=TARGET)
    return folder


def demo_files(precision: Precision) -> Files:
    return Files.of(models_folder(), "demo", precision)


def demo_images() -> list[RGBImage]:
    folder = draw_images(models_folder(), MODELS["demo"])
    return [RGBImage.open(path) for path in sorted(folder.glob("*.png"))]


def demo_eager() -> tuple[FasterRCNN, ModelSpec]:
    return load_checkpoint(CHECKPOINT, arch=MODELS["demo"].arch)


def open_bare(path: Path) -> BareDetector:
    """Open an artifact on the first GPU; raise ArtifactError where it does not run."""
    return bare_detector.open_bare(open_engine_artifact(path))


@cache
def _refusal() -> str:
    """Return why no engine runs here, or an empty text."""
    try:
        open_bare(demo_files("fp16").artifact).close()
    except (ImportError, MissingDependencyError) as error:
        return f"{error} (for {TARGET})"
    except ArtifactError as error:
        if any(words in error.message for words in _REFUSALS):
            return str(error)
        raise
    return ""


def needs_engines() -> None:
    """Skip a test, also with FRCNN_REQUIRE_GPU=1, where TensorRT is not installed or does not serve this GPU."""
    if refusal := _refusal():
        pytest.skip(f"engines do not run here: {refusal}")
