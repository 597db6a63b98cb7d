"""Cut a model at some of its nodes: whole models in between, and the nodes, in the order in which they run.

TensorRT-RTX has no plugins, so its engines are the pieces of ``model.onnx`` between our operators, and the runtime
launches the operators' kernels. The pass itself knows nothing of either: it cuts any model at any nodes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx

from frcnn.exporter.graph.cut_flow import Flow, IsCut, Placed, is_measure, read_flow
from frcnn.exporter.graph.cut_pieces import Draft, build_model
from frcnn.exporter.graph.cut_shapes import measure_another
from frcnn.exporter.graph.cut_types import ValueTypes

__all__ = ["CutNode", "Piece", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """What lies between cuts, as a model of its own.

    Attributes:
        model: a whole model: same opsets, only the weights that it uses, its inputs and outputs typed.
        inputs: values that it reads.
        outputs: values that it makes and that a later step or the model's outputs need.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutNode:
    """A node that was cut at, as the model has it.

    Attributes:
        node: the node.
        inputs: values that it reads, each once; what its subgraphs capture comes last.
        outputs: values that it makes.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut(model: onnx.ModelProto, is_cut: IsCut) -> tuple[Piece | CutNode, ...]:
    """Cut a model at nodes.

    The steps in order, each reading the model's inputs and what earlier steps made, give the model's outputs. A model
    output that is one of its inputs comes from no step. There is at most one piece more than the longest chain of cut
    nodes: a node is in the earliest piece that its inputs allow, a piece with nothing in it is left out, and so is what
    no output of the model depends on. No value is made by two steps.

    What depends on constants and shapes alone does not flow between pieces: each that uses it computes it anew from the
    shape of a value that it reads anyway, where one is known to have that shape. Only a cut node or an output of the
    model that wants such a value, or a constant, has a piece emit it. An initializer is a constant, even where it is
    listed among the model's inputs.

    Args:
        model: its nodes in the order in which they run; left as it is. Weights are copied once for each piece that uses
            them, and not otherwise.
        is_cut: whether to cut at a node.

    Raises:
        ExportError: a node to cut at lies in a subgraph or function, the type of a value that crosses a cut is not
            known, or a value is read before it is made, or made twice.
    """
    flow = read_flow(model, is_cut)
    types = ValueTypes(model, flow)
    cuts = [placed for placed in flow.nodes if placed.role == "cut"]
    drafts = _plan(model, flow, types, cuts)
    while idle := _idle(model, cuts, drafts):
        cuts = [placed for placed in cuts if placed not in idle]
        drafts = _plan(model, flow, types, cuts)

    steps: list[Piece | CutNode] = []
    for stage in sorted({*drafts, *(placed.stage for placed in cuts)}):
        if stage in drafts:
            draft = drafts[stage]
            built = build_model(model, flow, types, draft, name=f"{model.graph.name or 'graph'}_{stage}")
            steps.append(Piece(model=built, inputs=draft.inputs, outputs=draft.outputs))
        steps.extend(
            CutNode(node=placed.node, inputs=placed.reads, outputs=tuple(filter(None, placed.node.output)))
            for placed in cuts
            if placed.stage == stage
        )
    return tuple(steps)


def _plan(model: onnx.ModelProto, flow: Flow, types: ValueTypes, cuts: list[Placed]) -> dict[int, Draft]:
    """Return the piece of each stage that has one, planned from the last to the first: what is read is to be made."""
    last = max(flow.stages.values(), default=0)
    wanted = _wanted(model, flow, cuts, last)
    drafts: dict[int, Draft] = {}
    for stage in reversed(range(last + 1)):
        if wanted[stage]:
            drafts[stage] = _draft(model, flow, types, stage, wanted[stage])
            for name in drafts[stage].inputs:
                _want(name, flow, wanted)
    return drafts


def _idle(model: onnx.ModelProto, cuts: list[Placed], drafts: dict[int, Draft]) -> list[Placed]:
    """Return the last cut nodes whose results nobody reads, since their shape alone was wanted and had elsewhere.

    One stage at a time: without them, earlier pieces may read other values.
    """
    read = {value.name for value in model.graph.output}
    read.update(name for draft in drafts.values() for name in draft.inputs)
    read.update(name for placed in cuts for name in placed.reads)
    idle = [placed for placed in cuts if not read.intersection(placed.node.output)]
    latest = max((placed.stage for placed in idle), default=0)
    return [placed for placed in idle if placed.stage == latest]


def _want(name: str, flow: Flow, wanted: dict[int, set[str]]) -> None:
    """Have the piece that makes a value emit it; inputs of the model and results of cut nodes are there already."""
    maker = flow.makers.get(name)
    if maker is not None and maker.role == "once":
        wanted[maker.stage].add(name)


def _wanted(model: onnx.ModelProto, flow: Flow, cuts: list[Placed], last: int) -> dict[int, set[str]]:
    """Return what cut nodes and the model's outputs want of the piece of each stage."""
    wanted: dict[int, set[str]] = defaultdict(set)
    latest: dict[str, int] = {}  # of values that any piece can compute: the stage that they are wanted at
    wishes = [(placed.stage, name) for placed in cuts for name in placed.reads]
    wishes += [(last, value.name) for value in model.graph.output]
    for stage, name in wishes:
        if flow.is_repeated(name):
            latest[name] = min(stage, latest.get(name, stage))
        else:
            _want(name, flow, wanted)

    # The fewest pieces: by falling haste, a value goes to a piece there is, or else as late as it may be.
    stages = {placed.stage for placed in flow.nodes if placed.role == "once"}
    for name, at in sorted(latest.items(), key=lambda item: item[1]):
        there = [stage for stage in stages if flow.stages[name] <= stage <= at]
        stages.add(min(there, default=at))
        wanted[min(there, default=at)].add(name)
    return wanted


def _draft(model: onnx.ModelProto, flow: Flow, types: ValueTypes, stage: int, outputs: set[str]) -> Draft:
    """Collect what a piece needs to make its outputs, from these back to what is there when it starts."""
    own: dict[int, Placed] = {}
    constants: set[str] = set()
    inputs: set[str] = set()
    measured: list[Placed] = []
    todo = list(outputs)
    while todo:
        name = todo.pop()
        maker = flow.makers.get(name)
        if name in flow.constants:
            constants.add(name)
        elif maker is None or not _is_made_in(maker, stage):
            inputs.add(name)
        elif maker.index not in own:
            own[maker.index] = maker
            if is_measure(maker.node, flow.functions) and not _is_made_there(maker.reads[0], flow, stage):
                measured.append(maker)
            else:
                todo.extend(maker.reads)

    nodes = {index: placed.node for index, placed in own.items()}
    for placed in sorted(measured, key=lambda placed: placed.index):
        known = sorted(inputs, key=flow.order)
        nodes[placed.index] = measure_another(placed.node, model, types, known, flow.inputs)
        inputs.add(nodes[placed.index].input[0])
    return Draft(
        nodes=tuple(nodes[index] for index in sorted(nodes)),
        constants=frozenset(constants),
        inputs=tuple(sorted(inputs, key=flow.order)),
        outputs=tuple(sorted(outputs, key=flow.order)),
    )


def _is_made_in(maker: Placed, stage: int) -> bool:
    return maker.role == "repeated" or (maker.role == "once" and maker.stage == stage)


def _is_made_there(name: str, flow: Flow, stage: int) -> bool:
    """Return whether the piece of a stage makes a value itself."""
    maker = flow.makers.get(name)
    return flow.is_repeated(name) or (maker is not None and _is_made_in(maker, stage))
