"""The float32 model to quantise: read, and refused where it is of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from frcnn.errors import ArtifactError
from frcnn.exporter.graph.source_model import SourceModel, read_source_model
from frcnn.exporter.graph.split import split
from frcnn.files.archive import is_archive
from frcnn.plugins import DOMAIN

__all__ = ["read_float_model"]

_MAKE_ONE: Final = "make one with: frcnn export CHECKPOINT -o model.onnx"


def read_float_model(path: Path) -> SourceModel:
    """Read a float32 ``model.onnx`` with its operators.

    Raises:
        ArtifactError: it is an engine artifact, int8, fp16 or bf16, inlined, damaged, or not frcnn's.
        ExportError: its graph is another than this version of frcnn exports.
    """
    if is_archive(path):
        raise ArtifactError(
            f"{path}: expected a float32 model.onnx, got an engine artifact",
            hint="quantize the model.onnx that it was built from, then build again: frcnn build model-int8.onnx",
        )
    source = read_source_model(path)
    precision = source.manifest.precision
    if precision == "int8":
        raise ArtifactError(f"{path}: expected a float32 model.onnx, got an int8 one", hint=_MAKE_ONE)
    if precision != "fp32":
        raise ArtifactError(
            f"{path}: expected a float32 model.onnx, got {precision}", hint=f"{_MAKE_ONE} --precision fp32"
        )
    if not any(node.domain == DOMAIN for node in source.model.graph.node):
        raise ArtifactError(
            f"{path}: expected the operators of the domain {DOMAIN!r}, got an inlined model",
            hint="export without --inline; frcnn quantize --inline writes the int8 model inlined",
        )
    split(source.model)
    return source
