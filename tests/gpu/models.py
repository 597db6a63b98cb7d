"""The demo's exports and artifacts for the TensorRT that serves this GPU, if there is one."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from maintenance.bare_artifact import BareArtifact
from maintenance.engine_models import MODELS, Files, load_images, make

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime.images.image import RGBImage
from frcnn.spec import Precision
from frcnn.spec.engine import Target
from frcnn.spec.supported_gpus import serves

__all__ = ["demo_files", "demo_images", "models_folder", "needs_engines"]

_REFUSALS = ("refuses the engine", "cannot load the engine", "serves GPUs of compute capability")


def _target() -> Target:
    major, minor = torch.cuda.get_device_capability()
    return "tensorrt-rtx" if serves("tensorrt-rtx", f"{major}.{minor}") else "tensorrt"


@cache
def models_folder() -> Path:
    """Return the folder with the demo's files: $FRCNN_GPU_MODELS, or a new one, filled in about a minute."""
    folder = Path(os.environ.get("FRCNN_GPU_MODELS") or tempfile.mkdtemp(prefix="frcnn-gpu-models-"))
    make(folder, [MODELS["demo"]], target=_target())
    return folder


def demo_files(precision: Precision) -> Files:
    return Files.of(models_folder(), "demo", precision)


def demo_images() -> list[RGBImage]:
    return load_images(models_folder(), "demo")


@cache
def _refusal() -> str:
    """Return why no engine runs here, or an empty text."""
    try:
        BareArtifact(demo_files("fp16").artifact).close()
    except (ImportError, MissingDependencyError) as error:
        return f"{error} (for {_target()})"
    except ArtifactError as error:
        if any(words in error.message for words in _REFUSALS):
            return str(error)
        raise
    return ""


def needs_engines() -> None:
    """Skip a test, also with FRCNN_REQUIRE_GPU=1, where TensorRT is not installed or does not serve this GPU."""
    if refusal := _refusal():
        pytest.skip(f"engines do not run here: {refusal}")
