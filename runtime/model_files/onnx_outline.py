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
from typing import BinaryIO, Final

from frcnn.errors import ArtifactError, one_line
from frcnn.files import missing_file
from frcnn.files.external_data import Field, FieldError, external_tensor, fields

# Field numbers of onnx.proto
_MODEL_IR_VERSION, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_METADATA = 1, 2, 7, 14
_MODEL_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_INITIALIZER: Final = 5
_TENSOR_DATA: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
_PAIR_KEY, _PAIR_VALUE = 1, 2
_SMALL_BYTES: Final = 256
_MAX_BYTES: Final = 64 << 20  # besides the weights; those of real models are below 1 MB


class _NotOnnxError(Exception):
    """The bytes are not the expected protobuf; the message names the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """An ONNX file without its weights.

    ``metadata`` are its ``metadata_props``. ``model`` is a serialized ``ModelProto`` whose larger initializers have no
    values, which are ``weight_bytes`` of the ``file_bytes``. ``producer`` is empty if the file does not name it.
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
        raise missing_file(path, ArtifactError, hint=make_one) from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {one_line(error)}") from error


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
    model = bytes(kept)
    try:
        external = external_tensor(model)
    except ValueError as error:
        raise _NotOnnxError(f"a damaged one: {error}") from error
    if external is not None:
        raise _NotOnnxError(f"one that is not whole: the values of {external!r} lie in another file")
    return Outline(producer=producer, metadata=metadata, model=model, weight_bytes=weight_bytes, file_bytes=size)


def _without_weights(file: BinaryIO, graph: Field) -> tuple[bytes, int]:
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


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[Field]:
    try:
        yield from fields(lambda start, stop: _read(file, start, stop), begin, end)
    except FieldError as error:
        known = error.missing and (begin > 0 or error.number in _MODEL_FIELDS)
        what = f"a truncated one ({error.missing:,} bytes are missing)" if known else _guess(file)
        raise _NotOnnxError(what) from error


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


def _text(file: BinaryIO, field: Field) -> str:
    if not field.has_length:
        raise _NotOnnxError(_guess(file))
    try:
        return _read(file, field.payload, field.end).decode()
    except UnicodeDecodeError as error:
        raise _NotOnnxError("a damaged one: its metadata is no UTF-8 text") from error


def _message(number: int, content: bytes | bytearray) -> bytes:
    """Return a field that holds a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


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
