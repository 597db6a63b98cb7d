"""Read and check the ``model.onnx`` from which an engine is built."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx

from frcnn.errors import ArtifactError, UsageError, one_line
from frcnn.exporter.graph.half_precision import float16_rest
from frcnn.files import missing_file
from frcnn.files.archive import is_archive
from frcnn.files.external_data import external_tensor
from frcnn.spec import MANIFEST_KEY, Manifest, Precision

_IR_VERSION_FIELD: Final = 0x08  # the first field of an ONNX file
_MAKE_ONE: Final = "make one with: frcnn export CHECKPOINT -o model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A ``model.onnx`` written by ``frcnn export``, with all weights, its manifest and the SHA-256 of the file."""

    model: onnx.ModelProto
    manifest: Manifest
    sha256: str


def is_onnx(path: Path) -> bool:
    """Return whether a file is an ONNX model; raise ArtifactError for an engine artifact or an unreadable file."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as error:
        raise missing_file(path, ArtifactError) from error
    except IsADirectoryError as error:
        raise ArtifactError(f"{path}: expected a model.onnx or a checkpoint, got a folder") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {one_line(error)}", hint="check the file") from error
    if is_archive(path):
        raise ArtifactError(
            f"{path}: expected a model.onnx or a checkpoint, got an engine artifact",
            hint="it is built already; to build it otherwise, start from its model.onnx or checkpoint",
        )
    # a safetensors file may start with the same byte, of its header's length; the header starts at byte 8
    return head[:1] == bytes([_IR_VERSION_FIELD]) and head[8:9] != b"{"


def read_source_model(path: Path) -> SourceModel:
    """Read a ``model.onnx`` with its weights; raise ArtifactError if it is damaged, not whole, or not frcnn's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {one_line(error)}", hint="check the path") from error
    try:
        model = onnx.load_model_from_string(data)
        external = external_tensor(data)
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise ArtifactError(f"{path}: the ONNX model is damaged or cut short", hint=_MAKE_ONE) from error
    if external is not None:
        raise ArtifactError(
            f"{path}: the values of {external!r} lie in another file, expected a whole model", hint=_MAKE_ONE
        )
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if MANIFEST_KEY not in metadata:
        raise ArtifactError(
            f"{path}: an ONNX model, but not one of frcnn's: it has no {MANIFEST_KEY!r} in its metadata", hint=_MAKE_ONE
        )
    manifest = Manifest.from_json(metadata[MANIFEST_KEY], source=str(path))
    return SourceModel(model=model, manifest=manifest, sha256=hashlib.sha256(data).hexdigest())


def in_precision(source: SourceModel, precision: Precision | None, path: Path) -> SourceModel:
    """Return a source model whose engine has a precision: of an int8 model, whose layers that are not int8 have it.

    Raises UsageError for a file of another precision, and ExportError for a weight that is too large for float16.
    """
    typed = source.manifest.precision
    if typed == "int8" and precision == "fp16":
        return replace(source, model=float16_rest(source.model))
    if typed == "int8" and precision == "bf16":
        raise UsageError(
            "precision: the layers of an int8 model that are not int8 can be fp32 or fp16, got bf16",
            hint="leave --precision out for fp32",
        )
    if precision in (None, typed) or (typed == "int8" and precision == "fp32"):
        return source
    raise UsageError(
        f"precision: {path} is typed in {typed}, which its engine keeps; got {precision}",
        hint=f"give the checkpoint instead, which is exported anew: frcnn build CHECKPOINT --precision {precision}",
    )
