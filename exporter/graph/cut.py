"""Cut a model at some of its nodes into complete models and the nodes between them, in execution order.

TensorRT-RTX has no plugins: its engines are the pieces of ``model.onnx`` between the custom operators, whose kernels
the runtime launches itself. This pass is independent of both: it cuts any model at any nodes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx

from frcnn.exporter.graph.cut_flow import Flow, Placed, is_shape_query, read_flow
from frcnn.exporter.graph.cut_types import MIN_IR_VERSION, ValueTypes
from frcnn.exporter.graph.nodes import IsCut, all_nodes, inline_functions, unique_name

__all__ = ["CutNode", "Piece", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """A part between cuts: a complete model of what it uses, the values it reads, and those that are needed later."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutNode:
    """A node at which the model is cut, unchanged; what its subgraphs capture is last among ``inputs``."""

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Draft:
    """A planned piece: its nodes in the model's order, the initializers it uses, and what it reads and emits."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut(model: onnx.ModelProto, is_cut: IsCut) -> tuple[Piece | CutNode, ...]:
    """Cut a model at nodes.

    Run in order, the steps compute the model's outputs. Each reads the model's inputs and outputs of earlier steps. A
    node is in the earliest piece that its inputs allow, so there is at most one piece more than the longest chain of
    cut nodes. Nodes that no output depends on are dropped, no value is made twice, and functions are inlined except
    those of cut nodes.

    Values that depend on constants and shapes only do not cross cuts: each piece that needs them computes them from
    the shape of a value that it reads anyway, if one is known to have that shape. A piece emits such a value, or a
    constant, only for a cut node or an output of the model. An initializer is a constant even if it is an input too.

    Args:
        model: nodes sorted topologically; is not changed. Weights are copied once for each piece that uses them.
        is_cut: whether to cut at a node.

    Raises:
        ExportError: a node to cut at is in a subgraph, the type of a value that crosses a cut is not known, or a value
            is read before it is made, or made twice.
    """
    model = inline_functions(model, is_cut)
    flow = read_flow(model, is_cut)
    types = ValueTypes(model, flow)
    cuts = [placed for placed in flow.nodes if placed.role == "cut"]
    drafts = _plan(model, flow, types, cuts)
    while unread := _unread(model, cuts, drafts):
        cuts = [placed for placed in cuts if placed not in unread]
        drafts = _plan(model, flow, types, cuts)

    steps: list[Piece | CutNode] = []
    for stage in sorted({*drafts, *(placed.stage for placed in cuts)}):
        if stage in drafts:
            draft = drafts[stage]
            built = _build_model(model, flow, types, draft, name=f"{model.graph.name or 'graph'}_{stage}")
            steps.append(Piece(model=built, inputs=draft.inputs, outputs=draft.outputs))
        steps.extend(
            CutNode(node=placed.node, inputs=placed.reads, outputs=tuple(filter(None, placed.node.output)))
            for placed in cuts
            if placed.stage == stage
        )
    return tuple(steps)


def _plan(model: onnx.ModelProto, flow: Flow, types: ValueTypes, cuts: list[Placed]) -> dict[int, _Draft]:
    """Return the piece of each stage that has one, planned from the last stage to the first."""
    last = max(flow.stages.values(), default=0)
    wanted = _wanted(model, flow, cuts, last)
    drafts: dict[int, _Draft] = {}
    for stage in reversed(range(last + 1)):
        if wanted[stage]:
            drafts[stage] = _draft(flow, types, stage, wanted[stage])
            for name in drafts[stage].inputs:
                _want(name, flow, wanted)
    return drafts


def _unread(model: onnx.ModelProto, cuts: list[Placed], drafts: dict[int, _Draft]) -> list[Placed]:
    """Return the cut nodes of the last stage that has any whose outputs nothing reads.

    Only the shapes of their outputs were needed, and other values have these. They are dropped one stage at a time,
    since without them earlier pieces may read other values.
    """
    read = {value.name for value in model.graph.output}
    read.update(name for draft in drafts.values() for name in draft.inputs)
    read.update(name for placed in cuts for name in placed.reads)
    unread = [placed for placed in cuts if not read.intersection(placed.node.output)]
    last = max((placed.stage for placed in unread), default=0)
    return [placed for placed in unread if placed.stage == last]


def _want(name: str, flow: Flow, wanted: dict[int, set[str]]) -> None:
    """Have the piece that makes a value emit it; inputs and outputs of cut nodes are available without."""
    producer = flow.producers.get(name)
    if producer is not None and producer.role == "once":
        wanted[producer.stage].add(name)


def _wanted(model: onnx.ModelProto, flow: Flow, cuts: list[Placed], last: int) -> dict[int, set[str]]:
    """Return the values that cut nodes and the model's outputs need from the piece of each stage."""
    wanted: dict[int, set[str]] = defaultdict(set)
    deadlines: dict[str, int] = {}  # values that any piece can compute -> the first stage that needs them
    needs = [(placed.stage, name) for placed in cuts for name in placed.reads]
    needs += [(last, value.name) for value in model.graph.output]
    for stage, name in needs:
        if flow.is_repeated(name):
            deadlines[name] = min(stage, deadlines.get(name, stage))
        else:
            _want(name, flow, wanted)

    # For the fewest pieces, the most urgent value first: in a piece that exists, else as late as its deadline allows.
    stages = {placed.stage for placed in flow.nodes if placed.role == "once"}
    for name, deadline in sorted(deadlines.items(), key=lambda item: item[1]):
        possible = [stage for stage in stages if flow.stages[name] <= stage <= deadline]
        chosen = min(possible, default=deadline)
        stages.add(chosen)
        wanted[chosen].add(name)
    return wanted


def _draft(flow: Flow, types: ValueTypes, stage: int, outputs: set[str]) -> _Draft:
    """Collect what a piece needs for its outputs, back to the values available when it starts."""
    own: dict[int, Placed] = {}
    constants: set[str] = set()
    inputs: set[str] = set()
    shape_queries: list[Placed] = []
    todo = list(outputs)
    while todo:
        name = todo.pop()
        if name in flow.constants:
            constants.add(name)
        elif not flow.is_made_in(name, stage):
            inputs.add(name)
        elif (producer := flow.producers[name]).index not in own:
            own[producer.index] = producer
            if is_shape_query(producer.node) and not flow.is_made_in(producer.reads[0], stage):
                shape_queries.append(producer)
            else:
                todo.extend(producer.reads)

    nodes = {index: placed.node for index, placed in own.items()}
    for placed in sorted(shape_queries, key=lambda placed: placed.index):
        nodes[placed.index] = types.with_cheapest_source(placed.node, sorted(inputs, key=flow.order))
        inputs.add(nodes[placed.index].input[0])
    return _Draft(
        nodes=tuple(nodes[index] for index in sorted(nodes)),
        constants=frozenset(constants),
        inputs=tuple(sorted(inputs, key=flow.order)),
        outputs=tuple(sorted(outputs, key=flow.order)),
    )


def _build_model(model: onnx.ModelProto, flow: Flow, types: ValueTypes, draft: _Draft, *, name: str) -> onnx.ModelProto:
    part = onnx.ModelProto(ir_version=max(model.ir_version, MIN_IR_VERSION))
    part.producer_name, part.producer_version = model.producer_name, model.producer_version
    graph = part.graph
    graph.name = name
    graph.input.extend(onnx.ValueInfoProto(name=value, type=types.of(value)) for value in draft.inputs)
    graph.output.extend(onnx.ValueInfoProto(name=value, type=types.of(value)) for value in draft.outputs)
    _add_constants(graph, model, flow, draft)
    graph.node.extend(draft.nodes)
    inner = {value for node in draft.nodes for value in node.output} - set(draft.outputs)
    graph.value_info.extend(value for value in model.graph.value_info if value.name in inner)
    used = {node.domain for node in all_nodes(graph.node)} | {"", "ai.onnx"}
    part.opset_import.extend(opset for opset in model.opset_import if opset.domain in used)
    return part


def _add_constants(graph: onnx.GraphProto, model: onnx.ModelProto, flow: Flow, draft: _Draft) -> None:
    """Add initializers; those that are outputs pass through an Identity, since not every builder emits weights."""
    taken: set[str] = set()
    if draft.constants.intersection(draft.outputs):
        taken.update(value for node in all_nodes(model.graph.node) for value in (*node.input, *node.output))
        taken.update((*flow.inputs, *flow.constants))
    for name, constant in flow.constants.items():
        if name not in draft.constants:
            continue
        added = graph.initializer.add()
        added.CopyFrom(constant)
        if name in draft.outputs:
            added.name = unique_name(f"{name}/constant", taken)
            graph.node.append(onnx.helper.make_node("Identity", [added.name], [name], name=f"{name}/Identity"))
