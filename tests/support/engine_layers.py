"""The layers of an engine, as TensorRT's engine inspector lists them, to compare with the proved precision."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from frcnn.runtime.engines.tensorrt_engine import TensorRTEngine

UNKNOWN: Final = "unknown"
_ELEMENTS: Final = {  # in this order
    r"bf16|bfloat16": "bfloat16",
    r"fp16|half|float16": "float16",
    r"fp32|float32|\bfloat\b": "float32",
    r"fp8|float8": "float8",
    r"int64": "int64",
    r"int32": "int32",
    r"int8": "int8",
    r"\bbool\b": "bool",
}


class _Layer(msgspec.Struct, rename="pascal"):
    name: str = ""
    outputs: list[dict[str, Any]] = []
    inputs: list[dict[str, Any]] = []

    def element(self) -> str:
        """Return the type of the first output whose type is known, or of the first such input."""
        for tensor in (*self.outputs, *self.inputs):
            text = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "DataType", "Format"))
            for pattern, element in _ELEMENTS.items():
                if re.search(pattern, text, re.IGNORECASE):
                    return element
        return UNKNOWN


class _Inspection(msgspec.Struct, rename="pascal"):
    layers: list[str | _Layer]


def inspect_engine(engine: TensorRTEngine) -> list[tuple[str, str]]:
    """Return every layer of an engine on a GPU and its element type.

    The type is ``"unknown"`` unless the engine was built with ``ProfilingVerbosity.DETAILED``.
    """
    engine.device.activate()
    engine.log.clear()
    text = engine.raw.create_engine_inspector().get_engine_information(engine.trt.LayerInformationFormat.JSON)
    assert text, engine.log.reason()
    layers = msgspec.json.decode(text, type=_Inspection).layers
    return [(layer, UNKNOWN) if isinstance(layer, str) else (layer.name, layer.element()) for layer in layers]
