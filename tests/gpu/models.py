"""The demo's exports and artifacts, and whether TensorRT-RTX runs them on this GPU."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import pytest

from frcnn.benchmarks.bare_artifact import BareArtifact
from frcnn.benchmarks.engine_models import MODELS, Files, load_pictures, make
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime.pictures import Picture
from frcnn.spec import Precision
from gpu.machine import skip_or_fail

__all__ = ["demo_files", "demo_pictures", "models_folder", "needs_engines"]

_REFUSALS = ("refuses the engine", "cannot load the engine")


@cache
def models_folder() -> Path:
    """Return the folder with the demo's files: $FRCNN_GPU_MODELS, or one that is filled now, which takes a minute."""
    folder = Path(os.environ.get("FRCNN_GPU_MODELS") or tempfile.mkdtemp(prefix="frcnn-gpu-models-"))
    try:
        make(folder, [MODELS["demo"]])
    except (ImportError, MissingDependencyError) as error:
        skip_or_fail(f"the demo's artifacts cannot be made here: {error}")
    return folder


def demo_files(precision: Precision) -> Files:
    return Files.of(models_folder(), "demo", precision)


def demo_pictures() -> list[Picture]:
    return load_pictures(models_folder(), "demo")


@cache
def _refusal() -> str:
    try:
        BareArtifact(demo_files("fp16").artifact).close()
    except MissingDependencyError as error:
        return str(error)
    except ArtifactError as error:
        if any(words in error.message for words in _REFUSALS):
            return str(error)
        raise
    return ""


def needs_engines() -> None:
    """Skip a test, also with FRCNN_REQUIRE_GPU=1, where TensorRT-RTX does not serve this GPU: that is an answer."""
    if refusal := _refusal():
        pytest.skip(f"TensorRT-RTX engines do not run on this GPU: {refusal}")
