"""Read an ONNX file without its weights.

An ONNX file is one protobuf message. Walking its fields and skipping the weights finds the manifest in a fraction of a
millisecond, whatever the model's size, needs no package, and detects a truncated file or one that is no ONNX before a
runtime prints pages about it. Without the weights it is an ordinary ``ModelProto`` for the package ``onnx``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from frcnn.errors import ArtifactError
from frcnn.files.external_data import external_tensor

__all__ = ["Outline", "read_outline"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}

# Field numbers of onnx.proto
_MODEL_IR_VERSION, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTIONS = 1, 2, 7, 14, 25
_MODEL_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_INITIALIZER: Final = 5
_TENSOR_DATA: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
_PAIR_KEY, _PAIR_VALUE = 1, 2
_SMALL_BYTES: Final = 256
_MAX_BYTES: Final = 64 << 20  # besides the weights; those of real models are below 1 MB


class _Field(NamedTuple):
    """One protobuf field in a file: its number, wire type, begin, and its payload's begin and end."""

    number: int
    wire: int
    begin: int
    payload: int
    end: int


class _NotOnnxError(Exception):
    """The bytes are not the expected protobuf; the message names the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """An ONNX file without its weights.

    Attributes:
        producer: the program that made it; empty if the file does not name it.
        metadata: ``metadata_props``.
        model: a serialized ``ModelProto`` whose larger initializers have no values.
        weight_bytes: bytes of the values that were left out.
        file_bytes: size of the file.
    """

    producer: str
    metadata: dict[str, str]
    model: bytes
    weight_bytes: int
    file_bytes: int


def read_outline(path: str | os.PathLike[str]) -> Outline:
    """Read an ONNX file without its weights."""
    file_path = Path(path)
    make_one = "make one with: frcnn export CHECKPOINT -o model.onnx"
    try:
        with file_path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ArtifactError(f"{path}: the file is empty, expected an ONNX model", hint=make_one)
            return _outline(file, size)
    except _NotOnnxError as error:
        raise ArtifactError(f"{path}: expected an ONNX model, got {error}", hint=make_one) from error
    except IsADirectoryError as error:
        raise ArtifactError(f"{path}: expected an ONNX model, got a folder", hint=make_one) from error
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file", hint=make_one) from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


def _outline(file: BinaryIO, size: int) -> Outline:
    producer, metadata, kept, weight_bytes = "", dict[str, str](), bytearray(), 0
    seen = set()
    for index, field in enumerate(_fields(file, 0, size)):
        if field.number not in _MODEL_FIELDS or (index == 0 and field.number != _MODEL_IR_VERSION):
            raise _NotOnnxError(_guess(file))
        seen.add(field.number)
        if field.number == _MODEL_GRAPH:
            graph, dropped = _without_weights(file, field)
            kept += _message(field.number, graph)
            weight_bytes += dropped
        else:
            _keep(kept, file, field.begin, field.end)
        if field.number == _MODEL_PRODUCER:
            producer = _text(file, field)
        elif field.number == _MODEL_METADATA:
            pair = {part.number: _text(file, part) for part in _fields(file, field.payload, field.end)}
            name = pair.get(_PAIR_KEY, "")
            if name in metadata:
                raise _NotOnnxError(f"one whose metadata has {name!r} twice")
            metadata[name] = pair.get(_PAIR_VALUE, "")
    if _MODEL_GRAPH not in seen:
        raise _NotOnnxError("an ONNX file without a graph (truncated?)")
    _require_whole(bytes(kept))
    return Outline(producer=producer, metadata=metadata, model=bytes(kept), weight_bytes=weight_bytes, file_bytes=size)


def _without_weights(file: BinaryIO, graph: _Field) -> tuple[bytes, int]:
    """Return a serialized GraphProto without the values of its larger initializers, and how many bytes those are."""
    kept, dropped = bytearray(), 0
    for field in _fields(file, graph.payload, graph.end):
        if field.number != _GRAPH_INITIALIZER:
            _keep(kept, file, field.begin, field.end)
            continue
        tensor = bytearray()
        for part in _fields(file, field.payload, field.end):
            if part.number in _TENSOR_DATA and part.end - part.payload > _SMALL_BYTES:
                dropped += part.end - part.payload
            else:
                _keep(tensor, file, part.begin, part.end)
        kept += _message(_GRAPH_INITIALIZER, tensor)
    return bytes(kept), dropped


def _keep(kept: bytearray, file: BinaryIO, begin: int, end: int) -> None:
    """Append bytes of the file, up to the limit."""
    if len(kept) + end - begin > _MAX_BYTES:
        raise _NotOnnxError(f"one with more than {_MAX_BYTES:,} bytes besides its weights")
    kept += _read(file, begin, end)


def _require_whole(model: bytes) -> None:
    try:
        external = external_tensor(model)
    except ValueError as error:
        raise _NotOnnxError(f"a damaged one: {error}") from error
    if external is not None:
        raise _NotOnnxError(f"one that is not whole: the values of {external!r} lie in another file")


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[_Field]:
    """Walk the fields of the message that lies in [begin, end) of the file."""
    position = begin
    while position < end:
        key, payload = _read_varint(file, position, end)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in (_VARINT, _BYTES, *_FIXED_BYTES):
            raise _NotOnnxError(_guess(file))
        if wire == _VARINT:
            stop = _read_varint(file, payload, end)[1]
        elif wire == _BYTES:
            length, payload = _read_varint(file, payload, end)
            stop = payload + length
        else:
            stop = payload + _FIXED_BYTES[wire]
        if stop > end:
            known = begin > 0 or number in _MODEL_FIELDS
            raise _NotOnnxError(f"a truncated one ({stop - end:,} bytes are missing)" if known else _guess(file))
        yield _Field(number, wire, position, payload, stop)
        position = stop


def _read_varint(file: BinaryIO, position: int, end: int) -> tuple[int, int]:
    """Return the variable-length integer at a position and the position after it."""
    file.seek(position)
    value = 0
    for index, byte in enumerate(file.read(min(10, end - position))):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _NotOnnxError(_guess(file))


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


def _text(file: BinaryIO, field: _Field) -> str:
    if field.wire != _BYTES:
        raise _NotOnnxError(_guess(file))
    try:
        return _read(file, field.payload, field.end).decode()
    except UnicodeDecodeError as error:
        raise _NotOnnxError("a damaged one: its metadata is no UTF-8 text") from error


def _message(number: int, content: bytes | bytearray) -> bytes:
    """Return a field that holds a message."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


def _guess(file: BinaryIO) -> str:
    """Return what a file that is no ONNX looks like, from its first bytes."""
    start = _read(file, 0, 16)
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive (a PyTorch checkpoint?)"
    if start.startswith(b"\x80"):
        return "a pickle (an old PyTorch checkpoint?)"
    if start[8:10] == b'{"':
        return "a safetensors file"
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")):
        return "an image"
    return "something else, or a damaged one"
