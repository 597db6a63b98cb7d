"""The layers of an engine, as TensorRT's engine inspector lists them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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


class InspectedLayer(msgspec.Struct, rename="pascal"):
    """A layer of an engine; tensors as TensorRT names their keys."""

    name: str = ""
    layer_type: str = ""
    outputs: list[dict[str, Any]] = []
    inputs: list[dict[str, Any]] = []

    @property
    def element(self) -> str:
        """The type of the first output whose type is known, or of the first such input; ``"unknown"`` if none is.

        None is unless the engine was built with ``ProfilingVerbosity.DETAILED``.
        """
        for tensor in (*self.outputs, *self.inputs):
            text = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "DataType", "Format"))
            for pattern, element in _ELEMENTS.items():
                if re.search(pattern, text, re.IGNORECASE):
                    return element
        return UNKNOWN

    @property
    def is_reformat(self) -> bool:
        """Whether it changes only how a tensor lies in memory, or its type."""
        return self.layer_type == "Reformat" or self.name.startswith("Reformatting CopyNode")

    def names(self) -> set[str]:
        """Return the names of its tensors."""
        return {str(tensor.get("Name", "")) for tensor in (*self.inputs, *self.outputs)}


class _Inspection(msgspec.Struct, rename="pascal"):
    layers: list[str | InspectedLayer]


def inspect_engine(engine: TensorRTEngine) -> list[InspectedLayer]:
    """Return every layer of an engine on a GPU."""
    engine.device.activate()
    engine.log.clear()
    text = engine.raw.create_engine_inspector().get_engine_information(engine.trt.LayerInformationFormat.JSON)
    assert text, engine.log.explain().reason
    layers = msgspec.json.decode(text, type=_Inspection).layers
    return [InspectedLayer(name=layer) if isinstance(layer, str) else layer for layer in layers]


def summary(layers: Sequence[InspectedLayer], seams: Sequence[str]) -> dict[str, Any]:
    """Return the counts of layers by kind and type, and the reformats of tensors that other steps read or write.

    Args:
        layers: of one engine.
        seams: names of the engine's inputs and outputs.
    """
    at_seams = [layer for layer in layers if layer.is_reformat and layer.names() & set(seams)]
    return {
        "layers": len(layers),
        "types": dict(Counter(f"{layer.layer_type or UNKNOWN}, {layer.element}" for layer in layers)),
        "reformats": sum(layer.is_reformat for layer in layers),
        "reformats_at_seams": [
            {
                "layer": layer.name,
                "from": [tensor.get("Format/Datatype") for tensor in layer.inputs],
                "to": [tensor.get("Format/Datatype") for tensor in layer.outputs],
            }
            for layer in at_seams
        ],
    }
