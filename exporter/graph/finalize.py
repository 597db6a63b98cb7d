"""Finalize an exported graph: function bodies, node names and the manifest."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from typing import Final

import onnx

from frcnn.errors import ExportError
from frcnn.plugins import DOMAIN, OPERATORS, VERSION, grouped_nms, multiscale_roi_align, multiscale_roi_pool
from frcnn.spec import MANIFEST_KEY, Manifest, ModelSpec

__all__ = ["finalize_graph"]

_SCOPES: Final = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter records the modules of a node


def finalize_graph(model: onnx.ModelProto, spec: ModelSpec, manifest: Manifest) -> onnx.ModelProto:
    """Add function bodies and the manifest, name nodes after modules, remove stack traces, and check the graph.

    Raises ExportError if it has other custom operators than expected, or is not valid ONNX.
    """
    _attach_functions(model, spec)
    _name_nodes(model)
    _remove_stack_traces(model)
    onnx.helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    model.producer_name, model.producer_version = "frcnn", manifest.versions["frcnn"]
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return model


def _attach_functions(model: onnx.ModelProto, spec: ModelSpec) -> None:
    pooler = spec.roi_heads.pooler
    levels = len(pooler.feature_names)
    bodies: dict[str, Callable[[], onnx.FunctionProto]] = {
        "GroupedNMS": grouped_nms.function,
        "MultiscaleRoIAlign": lambda: multiscale_roi_align.function(levels=levels, aligned=False),
        "MultiscaleRoIPool": lambda: multiscale_roi_pool.function(levels=levels, output_size=pooler.output_size),
    }
    used = [node.op_type for node in model.graph.node if node.domain == DOMAIN]
    unknown = set(used) - set(OPERATORS)
    if unknown or used.count("GroupedNMS") != 2 or len(used) != 3:
        raise ExportError(f"expected two GroupedNMS nodes and one RoI pooling node, got {used}")
    if model.functions:
        raise ExportError(f"unexpected functions in the exported graph: {[f.name for f in model.functions]}")
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    for function in (bodies[name]() for name in sorted(set(used))):
        for entry in function.opset_import:
            if entry.domain == "":  # a model has one opset; the body's operators only take more types from 20 to 22
                entry.version = opset
        model.functions.append(function)
    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name every node and its outputs after the module it comes from: ``backbone/body/layer1/0/conv1/Conv``.

    Users know the model by its modules, and ONNX Runtime and TensorRT name a fused layer after its output.
    """
    counts: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        scopes = [scope for scope in ast.literal_eval(metadata.get(_SCOPES, "[]"))[:-1] if not scope.startswith("_")]
        path = scopes[-1].replace(".", "/") if scopes and scopes[-1] else "graph"
        name = f"{path}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        for index, old in enumerate(node.output):
            if old not in fixed:
                renamed[old] = f"{node.name}:{index}"
    for node in model.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _remove_stack_traces(model: onnx.ModelProto) -> None:
    """Remove documentation and metadata: stack traces with local paths, which are half of a small file."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
