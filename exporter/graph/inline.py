"""Inline the operators of ``model.onnx``, for readers that know no functions in a model, such as OpenVINO's."""

from __future__ import annotations

import onnx
import onnx.inliner

from frcnn.exporter.graph.nodes import unique_name
from frcnn.plugins import DOMAIN


def inline_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which the body of every operator of the domain ``frcnn`` stands in place of its node.

    Types, values and metadata stay as they are. Nodes of a body are named after the operator's node and their own
    operator, numbered where there are several: ``rpn/RegionProposals/TopK_2``. ``model`` is not changed; one without
    such operators is returned as a copy.
    """
    inlined = onnx.ModelProto()
    inlined.CopyFrom(model)
    callers = {node.op_type: node.name for node in model.graph.node if node.domain == DOMAIN}
    for function in inlined.functions:
        for node in function.node:
            node.name = f"{callers.get(function.name, function.name)}/{node.op_type}"
    inlined = onnx.inliner.inline_local_functions(inlined)
    _number(inlined.graph, {node.name for node in model.graph.node})
    standard = [opset for opset in inlined.opset_import if opset.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(standard)
    return inlined


def _number(graph: onnx.GraphProto, taken: set[str]) -> None:
    """Number the nodes that are not ``taken``, in place of the inliner's own ending: ``TopK__1``, ``TopK__1_2``."""
    known = set(taken)
    for node in graph.node:
        if node.name not in known:
            node.name = unique_name(node.name.rsplit("__", 1)[0], taken)
