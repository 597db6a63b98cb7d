"""Int8 forms of an exported model, calibrated on noise."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx

from frcnn.exporter.graph.quantize import Recipe, calibrate, quantize
from frcnn.spec import MANIFEST_KEY, Manifest, Quantization
from support.made_once import made_once

IMAGES = 3
SIZE = (32, 64)


def quantized(model: Path, *, symmetric: bool) -> Path:
    """Return the int8 form of a float32 ``model.onnx``, made once a run; ``symmetric`` as TensorRT needs it."""
    name = f"{model.parent.name} int8 {'symmetric' if symmetric else 'unsigned'}"
    return made_once(name, lambda folder: _write(model, folder / "model.onnx", symmetric)) / "model.onnx"


def _write(source: Path, target: Path, symmetric: bool) -> None:
    model, sizes = onnx.load(source), np.array([SIZE], np.int32)
    pixels = np.random.default_rng(5).normal(size=(IMAGES, 1, 3, *SIZE)).astype(np.float32)
    ranges = calibrate(model, ({"images": image, "image_sizes": sizes} for image in pixels), threads=1)
    model = quantize(model, ranges, Recipe(symmetric=symmetric))
    (entry,) = (entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    how = Quantization(quantizer="onnxruntime", symmetric=symmetric, images=IMAGES, float_layers=())
    manifest = Manifest.from_json(entry.value, source="test")
    entry.value = msgspec.structs.replace(manifest, precision="int8", quantization=how).to_json()
    onnx.save_model(model, target)
