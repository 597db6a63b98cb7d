"""Triton's model configuration, ``config.pbtxt``, by the message ``ModelConfig`` of its ``model_config.proto``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from frcnn.spec import Size
from frcnn.spec.engine import INPUTS, OUTPUTS

Fields = dict[str, Any]

FRONT_INPUT: Final = "image"


class Word(str):
    """A value that has no quotation marks in the text, such as ``KIND_CPU``."""


_TYPES: Final = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int32": "TYPE_INT32", "bytes": "TYPE_STRING"}


def network_tensors(image_type: str, canvas: Size | None, rows: int) -> Fields:
    """Return ``input`` and ``output`` of a network; without ``canvas`` it takes several, ``rows`` is K.

    Triton makes batches of requests whose ``images`` have one shape, which are those of one canvas.
    """
    counts, *padded = _detections(rows)
    scalar: Fields = {"reshape": {"shape": []}}  # the network's is (N,)
    inputs = [_tensor(INPUTS[0], image_type, 3, *(canvas or (-1, -1))), _tensor(INPUTS[1], "int32", 2)]
    return {"input": inputs, "output": [counts | scalar, *padded]}


def front_tensors(rows: int) -> Fields:
    """Return ``input`` and ``output`` of the model that takes bytes of image files."""
    return {"input": [_tensor(FRONT_INPUT, "bytes", 1)], "output": _detections(rows)}


def parameters(values: Mapping[str, str]) -> Fields:
    """Return ``parameters``."""
    return {"parameters": [{"key": key, "value": {"string_value": value}} for key, value in values.items()]}


def config_text(fields: Fields) -> str:
    """Return a message as protobuf's text."""
    return "".join(f"{line}\n" for line in _lines(fields))


def _detections(rows: int) -> list[Fields]:
    types, shapes = ("int32", "float32", "float32", "int32"), ((1,), (rows, 4), (rows,), (rows,))
    return [_tensor(name, kind, *shape) for name, kind, shape in zip(OUTPUTS, types, shapes, strict=True)]


def _tensor(name: str, element: str, *shape: int) -> Fields:
    return {"name": name, "data_type": Word(_TYPES[element]), "dims": list(shape)}  # dims have no batch


def _lines(fields: Fields) -> Iterator[str]:
    for name, value in fields.items():
        messages: Sequence[Any] = value if isinstance(value, list) else [value]
        if any(isinstance(message, dict) for message in messages):
            for message in messages:
                yield from (f"{name} {{", *(f"  {line}" for line in _lines(message)), "}")
        else:
            yield f"{name}: {_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return json.dumps(value, ensure_ascii=False) if type(value) is str else str(value)
