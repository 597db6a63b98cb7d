"""Checkpoint -> deployable module -> ONNX -> engine. A checkpoint needs torch: ``pip install 'frcnn[export]'``.

Example::

    from frcnn.exporter import build_engine, export_onnx, load_checkpoint

    model, spec = load_checkpoint("my.pth")
    export_onnx(model, "model.onnx", labels=["cat", "dog"])
    build_engine("model.onnx", "model.frcnn")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from frcnn.errors import MissingDependencyError

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.load import load_checkpoint
    from frcnn.exporter.engine.artifact import build_engine
    from frcnn.exporter.graph.export import export_onnx
    from frcnn.exporter.model.pooling import MultiScaleRoIPool

__all__ = ["MultiScaleRoIPool", "build_engine", "export_onnx", "load_checkpoint"]

_HOMES = {
    "MultiScaleRoIPool": "frcnn.exporter.model.pooling",
    "build_engine": "frcnn.exporter.engine.artifact",
    "export_onnx": "frcnn.exporter.graph.export",
    "load_checkpoint": "frcnn.exporter.checkpoint.load",
}


def __getattr__(name: str) -> object:
    """Import what needs torch only when it is asked for, so that every ``--help`` works without it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "frcnn":
            raise
        raise MissingDependencyError(str(error.name), extra="export", why=f"frcnn.exporter.{name}") from error
