"""Finalize an exported graph: no trace of the system, the manifest, and a check."""

from __future__ import annotations

import onnx

from frcnn.errors import ExportError
from frcnn.spec import MANIFEST_KEY, Manifest


def finalize_graph(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Remove stack traces, add the manifest, and check the graph; raise ExportError if it is not valid ONNX."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):  # stack traces have local paths, and are half of a small file
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    onnx.helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    model.producer_name, model.producer_version = "frcnn", manifest.versions["frcnn"]
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return model
