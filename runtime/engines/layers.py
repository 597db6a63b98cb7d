"""What the engine inspector says of an engine's layers, to hold against what was proved when it was built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from frcnn.errors import ArtifactError
from frcnn.runtime.engines.tensorrt_engine import TensorRTEngine

__all__ = ["inspect_engine", "layer_precisions"]

UNKNOWN: Final = "unknown"

_WORDS: Final[tuple[tuple[str, str], ...]] = (
    (r"bf16|bfloat16", "bfloat16"),
    (r"fp16|half|float16", "float16"),
    (r"fp32|float32|\bfloat\b", "float32"),
    (r"fp8|float8", "float8"),
    (r"int64", "int64"),
    (r"int32", "int32"),
    (r"int8", "int8"),
    (r"\bbool\b", "bool"),
)
"""How the inspector's descriptions of types are told apart, in this order."""


def inspect_engine(engine: TensorRTEngine) -> list[tuple[str, str]]:
    """Return every layer of an engine on a GPU and the element type that it puts out.

    Engines that were built with ``ProfilingVerbosity.DETAILED`` say it; others name their layers only.

    Returns:
        (layer, element type), ``"unknown"`` where the engine does not say.

    Raises:
        ArtifactError: the inspector answers nothing, or what is no JSON.
    """
    trt = engine.trt
    engine.device.activate()
    engine.log.clear()
    answer = engine.raw.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    if not answer:
        raise ArtifactError(f"the engine inspector gives nothing: {engine.log.reason()}")
    return layer_precisions(answer)


def layer_precisions(answer: str) -> list[tuple[str, str]]:
    """Read the inspector's JSON.

    Args:
        answer: an object with ``Layers``: names, or objects with ``Name``, ``Outputs`` and more.

    Raises:
        ArtifactError: it is no such JSON.
    """
    try:
        layers = json.loads(answer)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"the engine inspector's answer is not what is expected: {error}") from error
    return [
        (layer, UNKNOWN) if isinstance(layer, str) else (str(layer.get("Name", "")), _element(layer))
        for layer in layers
    ]


def _element(layer: Mapping[str, Any]) -> str:
    """Return the type of a layer's first output that is one we know, or of its first input."""
    for side in ("Outputs", "Inputs"):
        for tensor in layer.get(side) or ():
            said = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "DataType", "Format"))
            for pattern, element in _WORDS:
                if re.search(pattern, said, re.IGNORECASE):
                    return element
    return UNKNOWN
