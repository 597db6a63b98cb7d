"""Find the tensors of an ONNX model whose values lie in another file.

``model.onnx`` is one whole file. ONNX lets a tensor name a file beside the model instead, and whoever loads the model
reads it: a path, which a hostile model may lead anywhere. Ours never have one, so any is refused before a runtime or a
builder sees the model. The walk needs no package and steps over the values.
"""

from __future__ import annotations

from typing import Final

__all__ = ["external_tensor"]

# What may hold a tensor: field numbers of onnx.proto by message, with the message that each holds.
_INSIDE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10


def external_tensor(model: bytes) -> str | None:
    """Return the name of a tensor whose values lie in another file, or None where the model is whole.

    Args:
        model: a serialized ``ModelProto``.
    """
    pending = [("model", 0, len(model))]
    while pending:
        kind, position, end = pending.pop()
        name, is_external = "", False
        while position < end:
            number, wire, begin, position = _field(model, position, end)
            held = _INSIDE[kind].get(number)
            if held is not None and wire == _BYTES:
                pending.append((held, begin, position))
            elif kind == "tensor" and number == _TENSOR_NAME:
                name = model[begin:position].decode("utf-8", "replace")
            elif kind == "tensor" and number in (_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION):
                is_external |= number == _TENSOR_EXTERNAL_DATA or _varint(model, begin, position)[0] != 0
        if is_external:
            return name
    return None


def _field(data: bytes, position: int, end: int) -> tuple[int, int, int, int]:
    """Return a field's number and wire type, and where its payload begins and ends."""
    key, begin = _varint(data, position, end)
    wire = key & 7
    if wire == _VARINT:
        stop = _varint(data, begin, end)[1]
    elif wire == _BYTES:
        length, begin = _varint(data, begin, end)
        stop = begin + length
    elif wire in (_FIXED64, _FIXED32):
        stop = begin + (8 if wire == _FIXED64 else 4)
    else:
        raise ValueError(f"a field of the wire type {wire}")
    if stop > end:
        raise ValueError("a field that goes beyond its message")
    return key >> 3, wire, begin, stop


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the variable-length integer at a position, and the position after it."""
    value = 0
    for index, byte in enumerate(data[position : min(end, position + _LONGEST_VARINT)]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("an integer that does not end")
