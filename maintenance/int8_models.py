"""Int8 models of those whose figures are committed.

The demo's is what ``frcnn quantize`` writes, gate and all. Random weights have no accuracy that a gate could hold, so
theirs are what it would write without one: every layer of the recipe in int8.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.images import default_images
from frcnn.benchmarks.quantization.models import QuantizedModels
from frcnn.exporter.graph.source_model import read_source_model
from frcnn.files import replacing
from frcnn.processors import available_cpus
from frcnn.runtime.images.preprocess import prepare
from frcnn.spec import Manifest

_IMAGES: Final = 8
_SCENES: Final = 200
_SEED: Final = 100  # other scenes than those that anything else measures


def annotated_scenes(scenes: Path, demo: Path, *, count: int = _SCENES, seed: int = _SEED) -> Path:
    """Return a folder of the demo's scenes, ``images`` and ``instances.json``, composed where missing.

    Args:
        scenes: the folder.
        demo: ``examples/train_demo``.
        count: how many.
        seed: which.

    Raises:
        SystemExit: they cannot be composed.
    """
    if not (scenes / "instances.json").exists():
        with patch.object(sys, "path", [str(demo), *sys.path]):
            code = importlib.import_module("scenes").main(
                ["-o", str(scenes), "--count", str(count), "--seed", str(seed)]
            )
        if code:
            raise SystemExit(code)
    return scenes


def quantize_with_gate(model: Path, output: Path, scenes: Path, *, frcnn: Callable[[list[str]], int]) -> None:
    """Run ``frcnn quantize`` on annotated scenes, and keep its report beside the file.

    Raises:
        SystemExit: accuracy does not hold, or the command failed.
    """
    arguments = [model, "-o", output, "--images", scenes / "images", "--annotations", scenes / "instances.json"]
    if code := frcnn(["quantize", *map(str, arguments), "--json", str(output.with_suffix(".json"))]):
        raise SystemExit(code)


def quantize_random(model: Path, output: Path, *, symmetric: bool = False) -> None:
    """Quantise a model of random weights, calibrated on images that frcnn brings along; symmetric for TensorRT."""
    source = read_source_model(model)
    inputs = _inputs(source.manifest)
    made = QuantizedModels(source, inputs, images=_IMAGES, symmetric=symmetric, threads=available_cpus())
    with replacing(output) as temporary:
        made.write(temporary, ())


def _inputs(manifest: Manifest) -> Iterator[Mapping[str, NDArray[Any]]]:
    for image in default_images().images[:_IMAGES]:
        placed = prepare(image, manifest)
        yield {"images": placed.pixels[None], "image_sizes": np.array([placed.resized], np.int32)}
