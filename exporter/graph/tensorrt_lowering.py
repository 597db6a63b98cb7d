"""Lower the operators of ``model.onnx`` to plugin nodes for TensorRT's ONNX parser: one node for each kernel.

The parser looks up a node's ``op_type``: in its own operators, then in the model's functions, then in the plugin
registry with the string attributes ``plugin_namespace`` and ``plugin_version`` (onnx/onnx-tensorrt, ``parseNode`` and
``FallbackPluginImporter``). It ignores the domain. Plugin nodes get the domain ``trt.plugins``, like those of NVIDIA's
Model Optimizer, so that the lowered model is valid ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import quantized_values
from frcnn.plugins import DOMAIN, OPERATORS
from frcnn.plugins.operator_kernels import kernels_for, wiring_of
from frcnn.plugins.tensorrt.plugins import NAMESPACE, PLUGIN_VERSION

PLUGIN_DOMAIN: Final = "trt.plugins"


def lower_to_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which plugin nodes, in execution order, replace every operator of the domain ``frcnn``.

    The functions of the operators are dropped. Plugin nodes, and the values between the plugins of one operator, are
    named after its node: ``roi_heads/BoxDetections/order``. Lowering a lowered model changes nothing. Of an int8 model
    the plugins read values as they are before they are rounded to int8, as the operators between engines do. Raises
    ExportError for a node that is no operator, and KernelError for one whose attributes no kernel has.
    """
    nodes: list[onnx.NodeProto] = []
    unrounded = quantized_values(model.graph)
    for node in model.graph.node:
        nodes.extend(_plugin_nodes(node, unrounded) if node.domain == DOMAIN else [node])
    opsets = [opset for opset in model.opset_import if opset.domain not in (DOMAIN, PLUGIN_DOMAIN)]
    if any(node.domain == PLUGIN_DOMAIN for node in nodes):
        opsets.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))

    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    functions = [function for function in model.functions if function.domain != DOMAIN]
    for field, items in ((lowered.functions, functions), (lowered.opset_import, opsets), (lowered.graph.node, nodes)):
        del field[:]
        field.extend(items)
    return lowered


def _plugin_nodes(node: onnx.NodeProto, unrounded: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Return the nodes of an operator's plugins, which read ``unrounded`` values for their rounded ones."""
    if node.op_type not in OPERATORS:
        raise ExportError(
            f"{node.name} is {DOMAIN}.{node.op_type}; operators that have plugins are {', '.join(OPERATORS)}",
            hint="export the model again with this version of frcnn",
        )
    spec = OPERATORS[node.op_type]
    attributes = {name: onnx.helper.make_attribute(name, value) for name, value in spec.with_defaults({}).items()}
    attributes |= {attribute.name: attribute for attribute in node.attribute}
    kernels = kernels_for(node.op_type, {n: onnx.helper.get_attribute_value(a) for n, a in attributes.items()})
    wiring = wiring_of(node.op_type, kernels)
    inputs, outputs = [t.name for t in wiring.inputs], [t.name for t in spec.outputs]
    for what, expected, got in (("inputs", inputs, node.input), ("outputs", outputs, node.output)):
        if len(got) != len(expected):
            raise ExportError(f"{node.name}: {node.op_type} has the {what} {', '.join(expected)}, got {', '.join(got)}")
    read = [unrounded.get(name, name) for name in node.input]
    values = dict(zip([*inputs, *outputs], [*read, *node.output], strict=True))

    made = []
    for kernel in kernels:
        values |= {t.name: f"{node.name}/{t.name}" for t in kernel.outputs if t.name not in values}
        made.append(
            onnx.helper.make_node(
                kernel.plugin,
                [values[tensor.name] for tensor in kernel.inputs],
                [values[tensor.name] for tensor in kernel.outputs],
                name=f"{node.name}/{kernel.plugin}",
                domain=PLUGIN_DOMAIN,
                plugin_namespace=NAMESPACE,
                plugin_version=PLUGIN_VERSION,
            )
        )
        # TensorRT's Python code hands a plugin its attributes by position, so they stand in the order of the spec
        made[-1].attribute.extend(attributes[attribute.name] for attribute in spec.attributes)
    return made
