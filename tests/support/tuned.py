"""Tuned files, and the models that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx

from frcnn.files import file_sha256
from frcnn.runtime.tuned import read_machine, read_versions
from frcnn.spec import MANIFEST_KEY, Manifest, Quantization
from frcnn.spec.tuning import Allowed, Machine, Setting, Trial, TunedModel, Tuning

SETTING = Setting(provider="cpu", precision="fp32", threads=2, batch=1)


def a_machine(**changes: Any) -> Machine:
    fields = {"processor": "CPU", "signature": "stepping 1", "features": ("avx2", "avx512f"), "processors": 2}
    return Machine(**(fields | changes))


def a_trial(setting: Setting = SETTING, **changes: Any) -> Trial:
    fields = {"setting": setting, "status": "agrees", "median_ms": 10.0, "low_ms": 9.0, "high_ms": 11.0, "calls": 3}
    return Trial(**(fields | changes))


def a_tuning(choice: Setting = SETTING, *, allowed: Sequence[Allowed] = (), **changes: Any) -> Tuning:
    """Return a tuning whose only trials are the default and the choice."""
    fields = {
        "schema_version": 1,
        "date": "2026-11-27T12:00:00+0000",
        "machine": a_machine(),
        "versions": {"frcnn": "0.1.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1"},
        "model": TunedModel(name="model.onnx", sha256="0" * 64, precision="fp32"),
        "int8": TunedModel(name="model-int8.onnx", sha256="1" * 64, precision="int8") if choice.int8 else None,
        "allowed": tuple(allowed),
        "choice": choice,
        "trials": tuple(map(a_trial, dict.fromkeys((SETTING, choice)))),
    }
    return Tuning(**(fields | changes))


def write_tuned(model: Path, choice: Setting, *, allowed: Sequence[Allowed] = (), **changes: Any) -> Path:
    """Write a tuned file for a model of this machine; the int8 model is ``model-int8.onnx`` beside it."""
    int8 = model.with_name("model-int8.onnx")
    fields = {
        "machine": read_machine(),
        "versions": read_versions(),
        "model": TunedModel(name=model.name, sha256=file_sha256(model), precision="fp32"),
        "int8": TunedModel(name=int8.name, sha256=file_sha256(int8), precision="int8") if choice.int8 else None,
    }
    path = Path(f"{model}.tuned.json")
    path.write_bytes(msgspec.json.encode(a_tuning(choice, allowed=allowed, **(fields | changes))))
    return path


def write_as_int8(source: Path, target: Path, **changes: Any) -> Path:
    """Write a model again with the manifest of an int8 model; the graph stays in float32."""
    proto = onnx.load(source)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == MANIFEST_KEY]
    manifest = Manifest.from_json(entry.value, source=str(source))
    quantization = Quantization(quantizer="a test", symmetric=False, images=8, float_layers=())
    fields = {"precision": "int8", "quantization": quantization}
    entry.value = msgspec.structs.replace(manifest, **(fields | changes)).to_json()
    onnx.save(proto, target)
    return target
