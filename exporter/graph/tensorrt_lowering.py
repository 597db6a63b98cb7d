"""Lower the custom operators of ``model.onnx`` to plugin nodes for TensorRT's ONNX parser.

The parser looks up a node's ``op_type``: in its own operators, then in the model's functions, then in the plugin
registry with the string attributes ``plugin_namespace`` and ``plugin_version`` (onnx/onnx-tensorrt, ``parseNode`` and
``FallbackPluginImporter``). It ignores the domain. Plugin nodes get the domain ``trt.plugins``, like those of NVIDIA's
Model Optimizer, so that the lowered model is valid ONNX.
"""

from __future__ import annotations

from typing import Final

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import all_nodes, inline_functions, refuse_in_subgraphs, title, unique_name
from frcnn.plugins import DOMAIN, OPERATORS
from frcnn.plugins.tensorrt.plugins import NAMESPACE, PLUGIN_VERSION, PLUGINS_OF, Plugin

__all__ = ["PLUGIN_DOMAIN", "lower_to_plugins"]

PLUGIN_DOMAIN: Final = "trt.plugins"


def lower_to_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which plugin nodes, in execution order, replace every operator of the domain ``frcnn``.

    Functions are inlined and those of the operators dropped. Lowering a lowered model changes nothing. Plugin nodes,
    and the values between the plugins of one operator, are named after its node: ``rpn/GroupedNMS/order``. A node that
    is unknown, unlike its operator's spec or in a subgraph raises ExportError.
    """
    model = inline_functions(model, _is_ours)
    refuse_in_subgraphs(model.graph.node, _is_ours)
    taken = {name for node in all_nodes(model.graph.node) for name in (node.name, *node.input, *node.output)}
    taken |= {value.name for value in (*model.graph.input, *model.graph.initializer)}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_plugin_nodes(node, taken) if _is_ours(node) else [node])

    opsets = [opset for opset in model.opset_import if opset.domain not in (DOMAIN, PLUGIN_DOMAIN)]
    if any(node.domain == PLUGIN_DOMAIN for node in nodes):
        opsets.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))

    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    lowered.ClearField("functions")
    lowered.ClearField("opset_import")
    lowered.opset_import.extend(opsets)
    lowered.graph.ClearField("node")
    lowered.graph.node.extend(nodes)
    return lowered


def _is_ours(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN


def _plugin_nodes(node: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes of an operator's plugins, and add their new names to ``taken``."""
    plugins = _plugins_of(node)
    spec = OPERATORS[node.op_type]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    base = node.name or node.output[0]
    values = dict(zip(spec.input_names(len(node.input) - len(spec.inputs) + 1), node.input, strict=True))
    values |= zip((tensor.name for tensor in spec.outputs), node.output, strict=True)

    made = []
    for plugin in plugins:
        for name in plugin.outputs:
            if name not in values:
                values[name] = unique_name(f"{base}/{name}", taken)
        made.append(
            onnx.helper.make_node(
                plugin.name,
                [values[name] for name in plugin.inputs],
                [values[name] for name in plugin.outputs],
                name=unique_name(f"{base}/{plugin.name}", taken),
                domain=PLUGIN_DOMAIN,
                plugin_namespace=NAMESPACE,
                plugin_version=PLUGIN_VERSION,
            )
        )
        made[-1].attribute.extend(attributes[attribute.name] for attribute in plugin.attributes)
    return made


def _plugins_of(node: onnx.NodeProto) -> tuple[Plugin, ...]:
    """Return the plugins of a node, checked against the operator's spec."""
    spec = OPERATORS.get(node.op_type)
    if spec is None:
        raise ExportError(
            f"{title(node)} is {DOMAIN}.{node.op_type}; operators that have a plugin are {', '.join(OPERATORS)}",
            hint="export the model again with this version of frcnn",
        )
    plugins = PLUGINS_OF.get((node.op_type, len(node.input)))
    if plugins is None:
        counts = " or ".join(str(inputs) for operator, inputs in PLUGINS_OF if operator == node.op_type)
        raise ExportError(f"{title(node)}: {node.op_type} has plugins for {counts} inputs, got {len(node.input)}")
    for what, expected, got in (
        ("outputs", [tensor.name for tensor in spec.outputs], node.output),
        ("attributes", [attribute.name for attribute in spec.attributes], [a.name for a in node.attribute]),
    ):
        if len(got) != len(expected) or (what == "attributes" and set(got) != set(expected)):
            raise ExportError(
                f"{title(node)}: {node.op_type} has the {what} {', '.join(expected)}, got {', '.join(got) or 'none'}"
            )
    return plugins
