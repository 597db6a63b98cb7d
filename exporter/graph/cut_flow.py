"""How values flow through a graph that is cut: the stage each belongs to, and which are computed again where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import all_nodes, read_values, subgraph_nodes, title

__all__ = ["Constant", "Flow", "Functions", "IsCut", "Placed", "is_measure", "read_flow"]

IsCut = Callable[[onnx.NodeProto], bool]
Constant = onnx.TensorProto | onnx.SparseTensorProto
Role = Literal["cut", "once", "repeated"]
"""A cut node; a node that is in one piece; a node that is in every piece that uses what it makes."""

_STANDARD: Final = ("", "ai.onnx")
_MEASURES: Final = ("Shape", "Size")
_RANDOM: Final = (  # they make other values each time, so what they make is made once and passed on
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


class Functions:
    """The functions of a model, found as ONNX finds them: by domain, name and overload of a node."""

    def __init__(self, functions: Iterable[onnx.FunctionProto]) -> None:
        self._table = {(_domain(f.domain), f.name, f.overload): f for f in functions}

    def of(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """Return the function that a node calls, or None."""
        return self._table.get((_domain(node.domain), node.op_type, node.overload))

    def called_by(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.FunctionProto]:
        """Return the functions that nodes, their subgraphs and these functions call, in the model's order."""
        called: dict[int, onnx.FunctionProto] = {}
        todo = list(nodes)
        while todo:
            for node in all_nodes([todo.pop()]):
                function = self.of(node)
                if function is not None and id(function) not in called:
                    called[id(function)] = function
                    todo.extend(function.node)
        return [function for function in self._table.values() if id(function) in called]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A node that a model's outputs depend on.

    Attributes:
        index: its place among the model's nodes.
        node: the node.
        reads: the values that it reads, captures of its subgraphs among them.
        role: whether it is a cut, in one piece, or in every piece that needs it.
        stage: the most cut nodes on a path to it, itself left out.
    """

    index: int
    node: onnx.NodeProto
    reads: tuple[str, ...]
    role: Role
    stage: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow:
    """What a model's outputs depend on.

    Attributes:
        nodes: in the model's order.
        makers: value -> the node that makes it.
        inputs: the model's inputs that are no constants.
        constants: initializers by name.
        stages: value -> the stage from which it is there.
        functions: of the model.
    """

    nodes: list[Placed] = field(default_factory=list)
    makers: dict[str, Placed] = field(default_factory=dict)
    inputs: tuple[str, ...]
    constants: dict[str, Constant]
    stages: dict[str, int]
    functions: Functions

    def is_repeated(self, value: str) -> bool:
        """Return whether a value depends on constants and shapes alone, so that each piece computes it for itself."""
        maker = self.makers.get(value)
        return value in self.constants or (maker is not None and maker.role == "repeated")

    def order(self, value: str) -> tuple[int, int]:
        """Return a key that sorts values as the model has them: inputs, constants, and what nodes make."""
        if value in self.makers:
            maker = self.makers[value]
            return maker.index, list(maker.node.output).index(value)
        return (-1, list(self.constants).index(value)) if value in self.constants else (-2, self.inputs.index(value))


def is_measure(node: onnx.NodeProto, functions: Functions) -> bool:
    """Return whether a node looks at nothing but the shape of its input."""
    return _domain(node.domain) == "" and node.op_type in _MEASURES and functions.of(node) is None


def read_flow(model: onnx.ModelProto, is_cut: IsCut) -> Flow:
    """Find what the outputs depend on, and the stage of each node: the earliest that its inputs allow.

    Raises:
        ExportError: a value is read before it is made or made twice, or a node to cut at is not in the main graph.
    """
    graph = model.graph
    constants: dict[str, Constant] = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {tensor.values.name: tensor for tensor in graph.sparse_initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    functions = Functions(model.functions)
    flow = Flow(inputs=inputs, constants=constants, stages=dict.fromkeys([*inputs, *constants], 0), functions=functions)
    for index, node, reads in _live_nodes(graph):
        for name in reads:
            if name not in flow.stages:
                raise ExportError(
                    f"{title(node)} reads {name!r}, which nothing before it makes",
                    hint="sort the nodes in the order in which they run: onnx.checker.check_model says which are not",
                )
        placed = Placed(
            index=index,
            node=node,
            reads=reads,
            role=_role(node, reads, flow, is_cut),
            stage=max((flow.stages[name] for name in reads), default=0),
        )
        flow.nodes.append(placed)
        for name in filter(None, node.output):
            if name in flow.stages:
                raise ExportError(f"{title(node)} makes {name!r}, which is made already")
            flow.makers[name] = placed
            flow.stages[name] = placed.stage + (placed.role == "cut")
    for value in graph.output:
        if value.name not in flow.stages:
            raise ExportError(f"nothing makes the model's output {value.name!r}")
    _refuse_inner_cuts(flow, is_cut)
    return flow


def _live_nodes(graph: onnx.GraphProto) -> list[tuple[int, onnx.NodeProto, tuple[str, ...]]]:
    """Return the nodes that the outputs depend on, each with its index and the values that it reads."""
    needed = {value.name for value in graph.output}
    live = []
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if needed.intersection(filter(None, node.output)):
            live.append((index, node, read_values(node)))
            needed.update(live[-1][2])
    return live[::-1]


def _role(node: onnx.NodeProto, reads: tuple[str, ...], flow: Flow, is_cut: IsCut) -> Role:
    if is_cut(node):
        return "cut"
    if is_measure(node, flow.functions):
        return "repeated"
    return "repeated" if all(map(flow.is_repeated, reads)) and _is_repeatable(node, flow.functions) else "once"


def _is_repeatable(node: onnx.NodeProto, functions: Functions) -> bool:
    """Return whether a node is known to make the same of the same each time, all within it included."""
    bodies = (inner for function in functions.called_by([node]) for inner in all_nodes(function.node))
    return all(
        functions.of(inner) is not None or (_domain(inner.domain) == "" and inner.op_type not in _RANDOM)
        for inner in (*all_nodes([node]), *bodies)
    )


def _refuse_inner_cuts(flow: Flow, is_cut: IsCut) -> None:
    nodes = [placed.node for placed in flow.nodes if placed.role != "cut"]
    bodies = (node for function in flow.functions.called_by(nodes) for node in all_nodes(function.node))
    for node in (*subgraph_nodes(nodes), *bodies):
        if is_cut(node):
            raise ExportError(
                f"{title(node)} is in a subgraph or function; expected nodes to cut at in the main graph only",
                hint="inline the model's functions and conditions first",
            )


def _domain(name: str) -> str:
    return "" if name in _STANDARD else name
