"""Int8 forms of an exported model: Q/DQ nodes by ONNX Runtime, calibrated on noise; the box predictor stays float32."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization

from frcnn.plugins import DOMAIN
from frcnn.spec import MANIFEST_KEY, Manifest, Quantization
from support.made_once import made_once

IMAGES = 3
SIZE = (32, 64)


class _Noise(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        pixels = np.random.default_rng(5).normal(size=(IMAGES, 1, 3, *SIZE)).astype(np.float32)
        self._rest = [{"images": image, "image_sizes": np.array([SIZE], np.int32)} for image in pixels]

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return self._rest.pop() if self._rest else None


def quantized(model: Path, *, symmetric: bool) -> Path:
    """Return the int8 form of a float32 ``model.onnx``, made once a run; ``symmetric`` as TensorRT needs it."""
    name = f"{model.parent.name} int8 {'symmetric' if symmetric else 'unsigned'}"
    return made_once(name, lambda folder: _write(model, folder / "model.onnx", symmetric)) / "model.onnx"


def _write(source: Path, target: Path, symmetric: bool) -> None:
    kept = [node.name for node in onnx.load(source).graph.node if "box_predictor" in node.name or node.domain == DOMAIN]
    quantization.quantize_static(
        source,
        target,
        _Noise(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
        op_types_to_quantize=["Conv", "Gemm"],
        nodes_to_exclude=kept,
        extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
    )
    model = onnx.load(target)
    (entry,) = (entry for entry in onnx.load(source).metadata_props if entry.key == MANIFEST_KEY)
    how = Quantization(quantizer="onnxruntime", symmetric=symmetric, images=IMAGES, float_layers=())
    manifest = Manifest.from_json(entry.value, source="test")
    manifest = msgspec.structs.replace(manifest, precision="int8", quantization=how)
    onnx.helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    onnx.save_model(model, target)
