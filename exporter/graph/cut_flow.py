"""The stage of each value of a graph that is cut, and which values each piece computes for itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.graph.nodes import IsCut, all_nodes, is_standard, read_values, refuse_in_subgraphs, title

__all__ = ["Flow", "Placed", "is_shape_query", "read_flow"]

Role = Literal["cut", "once", "repeated"]
"""A node to cut at; a node in exactly one piece; a node repeated in every piece that needs its outputs."""

_SHAPE_QUERIES: Final = ("Shape", "Size")
_RANDOM: Final = (  # their outputs differ each time, so they are computed once and passed on
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A node that the model's outputs depend on.

    ``reads`` includes what its subgraphs capture; ``stage`` is the largest number of cut nodes on a path to it.
    """

    index: int
    node: onnx.NodeProto
    reads: tuple[str, ...]
    role: Role
    stage: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow:
    """What a model's outputs depend on: nodes in the model's order, inputs that are no initializers, and initializers.

    ``stages`` maps a value to the first stage at which it is available.
    """

    nodes: list[Placed] = field(default_factory=list)
    producers: dict[str, Placed] = field(default_factory=dict)
    inputs: tuple[str, ...]
    constants: dict[str, onnx.TensorProto]
    stages: dict[str, int]

    def is_repeated(self, value: str) -> bool:
        """Return whether a value depends on constants and shapes only, so that each piece computes it for itself."""
        producer = self.producers.get(value)
        return value in self.constants or (producer is not None and producer.role == "repeated")

    def is_made_in(self, value: str, stage: int) -> bool:
        """Return whether the piece of a stage computes a value itself."""
        producer = self.producers.get(value)
        return self.is_repeated(value) or (producer is not None and (producer.role, producer.stage) == ("once", stage))

    def order(self, value: str) -> tuple[int, int]:
        """Return a sort key for the model's order: inputs, constants, then outputs of nodes."""
        if value in self.producers:
            producer = self.producers[value]
            return producer.index, list(producer.node.output).index(value)
        return (-1, list(self.constants).index(value)) if value in self.constants else (-2, self.inputs.index(value))


def is_shape_query(node: onnx.NodeProto) -> bool:
    """Return whether a node depends on the shape of its input only."""
    return is_standard(node.domain) and node.op_type in _SHAPE_QUERIES


def read_flow(model: onnx.ModelProto, is_cut: IsCut) -> Flow:
    """Find what the outputs depend on, and the earliest stage of each node.

    Raises ExportError if a value is read before it is made, or made twice, or a node to cut at is in a subgraph.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    flow = Flow(inputs=inputs, constants=constants, stages=dict.fromkeys([*inputs, *constants], 0))
    for index, node, reads in _live_nodes(graph):
        for name in reads:
            if name not in flow.stages:
                raise ExportError(
                    f"{title(node)} reads {name!r}, which nothing before it makes",
                    hint="sort the nodes topologically; onnx.checker.check_model reports those that are not",
                )
        stage = max((flow.stages[name] for name in reads), default=0)
        placed = Placed(index=index, node=node, reads=reads, role=_role(node, reads, flow, is_cut), stage=stage)
        flow.nodes.append(placed)
        for name in filter(None, node.output):
            if name in flow.stages:
                raise ExportError(f"{title(node)} makes {name!r}, which is made already")
            flow.producers[name] = placed
            flow.stages[name] = stage + (placed.role == "cut")
    for value in graph.output:
        if value.name not in flow.stages:
            raise ExportError(f"nothing makes the model's output {value.name!r}")
    refuse_in_subgraphs((placed.node for placed in flow.nodes if placed.role != "cut"), is_cut)
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
    if is_shape_query(node):
        return "repeated"
    is_deterministic = all(is_standard(inner.domain) and inner.op_type not in _RANDOM for inner in all_nodes([node]))
    return "repeated" if is_deterministic and all(map(flow.is_repeated, reads)) else "once"
