"""Walk the fields of an ONNX model, and find the tensors whose values lie in another file.

``model.onnx`` is one whole file. ONNX lets a tensor name a file beside the model instead, and whoever loads the model
reads it: a path, which a hostile model may lead anywhere. Ours never have one, so any is refused before a runtime or a
builder sees the model. The walk needs no package and steps over the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

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
_VARINT, _BYTES = 0, 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
_LONGEST_VARINT: Final = 10

Read = Callable[[int, int], bytes]  # from one position to another


class Field(NamedTuple):
    """A protobuf field from ``begin`` to ``end``; its content begins at ``payload``."""

    number: int
    has_length: bool
    begin: int
    payload: int
    end: int


class FieldError(ValueError):
    """Bytes that are no field; ``missing`` of them where field ``number`` goes beyond its message."""

    def __init__(self, message: str, number: int = 0, missing: int = 0) -> None:
        super().__init__(message)
        self.number, self.missing = number, missing


def fields(read: Read, begin: int, end: int) -> Iterator[Field]:
    """Walk the fields of the protobuf message in [begin, end)."""
    while begin < end:
        key, payload = _varint(read, begin, end)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in (_VARINT, _BYTES, *_FIXED_BYTES):
            raise FieldError(f"a field {number} of the wire type {wire}")
        if wire == _VARINT:
            stop = _varint(read, payload, end)[1]
        elif wire == _BYTES:
            length, payload = _varint(read, payload, end)
            stop = payload + length
        else:
            stop = payload + _FIXED_BYTES[wire]
        if stop > end:
            raise FieldError("a field that goes beyond its message", number, stop - end)
        yield Field(number, wire == _BYTES, begin, payload, stop)
        begin = stop


def external_tensor(model: bytes) -> str | None:
    """Return the name of a tensor whose values lie in another file, or None where the model is whole.

    Args:
        model: a serialized ``ModelProto``; a ``ValueError`` where it is none.
    """

    def read(begin: int, end: int) -> bytes:
        return model[begin:end]

    pending = [("model", 0, len(model))]
    while pending:
        kind, position, stop = pending.pop()
        name, is_external = "", False
        for number, has_length, _, begin, end in fields(read, position, stop):
            held = _INSIDE[kind].get(number)
            if held is not None and has_length:
                pending.append((held, begin, end))
            elif kind == "tensor" and number == _TENSOR_NAME:
                name = model[begin:end].decode("utf-8", "replace")
            elif kind == "tensor" and number in (_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION):
                is_external |= number == _TENSOR_EXTERNAL_DATA or _varint(read, begin, end)[0] != 0
        if is_external:
            return name
    return None


def _varint(read: Read, position: int, end: int) -> tuple[int, int]:
    """Return the variable-length integer at a position, and the position after it."""
    value = 0
    for index, byte in enumerate(read(position, min(end, position + _LONGEST_VARINT))):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise FieldError("an integer that does not end")
