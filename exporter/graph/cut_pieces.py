"""Make a model of its own of a part of a model."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from frcnn.exporter.graph.cut_flow import Flow
from frcnn.exporter.graph.cut_types import CONSTANTS_ARE_NO_INPUTS, ValueTypes
from frcnn.exporter.graph.nodes import all_nodes, unique_name

__all__ = ["Draft", "build_model"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A part of a model.

    Attributes:
        nodes: in the model's order.
        constants: names of initializers.
        inputs: values that it reads.
        outputs: values that it is to emit; constants may be among them.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def build_model(model: onnx.ModelProto, flow: Flow, types: ValueTypes, draft: Draft, *, name: str) -> onnx.ModelProto:
    """Return a part as a model.

    Args:
        model: what it is a part of; left as it is.
        flow: of that model.
        types: of its values.
        draft: the part.
        name: what to call the graph.

    Raises:
        ExportError: the type of an input or output is not known.
    """
    part = onnx.ModelProto(ir_version=max(model.ir_version, CONSTANTS_ARE_NO_INPUTS))
    part.producer_name, part.producer_version = model.producer_name, model.producer_version
    graph = part.graph
    graph.name = name
    graph.input.extend(onnx.ValueInfoProto(name=value, type=types.of(value)) for value in draft.inputs)
    graph.output.extend(onnx.ValueInfoProto(name=value, type=types.of(value)) for value in draft.outputs)
    _add_constants(part, model, flow, draft)
    graph.node.extend(draft.nodes)

    inner = {value for node in draft.nodes for value in node.output} - set(draft.outputs)
    graph.value_info.extend(value for value in model.graph.value_info if value.name in inner)
    functions = flow.functions.called_by(draft.nodes)
    part.functions.extend(functions)
    used = {node.domain for node in all_nodes(graph.node)} | {function.domain for function in functions}
    used |= {opset.domain for function in functions for opset in function.opset_import}
    defaults = {"", "ai.onnx"}
    part.opset_import.extend(o for o in model.opset_import if o.domain in used | defaults)
    return part


def _add_constants(part: onnx.ModelProto, model: onnx.ModelProto, flow: Flow, draft: Draft) -> None:
    """Add initializers; one that the part emits passes through an Identity, since not every builder emits a weight."""
    taken: set[str] = set()
    if draft.constants.intersection(draft.outputs):
        taken.update(value for node in all_nodes(model.graph.node) for value in (*node.input, *node.output))
        taken.update((*flow.inputs, *flow.constants))
    for name, constant in flow.constants.items():
        if name not in draft.constants:
            continue
        is_sparse = isinstance(constant, onnx.SparseTensorProto)
        added = (part.graph.sparse_initializer if is_sparse else part.graph.initializer).add()
        added.CopyFrom(constant)
        if name in draft.outputs:
            hidden = unique_name(f"{name}/constant", taken)
            (added.values if is_sparse else added).name = hidden
            part.graph.node.append(onnx.helper.make_node("Identity", [hidden], [name], name=f"{name}/Identity"))
