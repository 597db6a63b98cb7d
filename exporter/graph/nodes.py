"""What an ONNX node holds and reads: its branches and bodies, and the values that these capture from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

__all__ = ["all_nodes", "read_values", "subgraph_nodes", "title", "unique_name"]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Give nodes, each followed by those in its branches and bodies, however deep."""
    for node in nodes:
        yield node
        yield from subgraph_nodes([node])


def subgraph_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Give the nodes inside the branches and bodies of nodes, however deep."""
    for node in nodes:
        for graph in _subgraphs(node):
            yield from all_nodes(graph.node)


def read_values(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the names of the values that a node reads, each once: its inputs, then what its subgraphs capture."""
    captured = (name for graph in _subgraphs(node) for name in _captured(graph))
    return tuple(dict.fromkeys(name for name in (*node.input, *captured) if name))


def title(node: onnx.NodeProto) -> str:
    """Return what messages call a node."""
    return f"node {(node.name or next(iter(node.output), node.op_type))!r}"


def unique_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, and take it."""
    chosen, count = name, 1
    while chosen in taken:
        count += 1
        chosen = f"{name}_{count}"
    taken.add(chosen)
    return chosen


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Give the names that a subgraph uses and does not make."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        yield from (name for name in read_values(node) if name not in own)
        own.update(node.output)
    yield from (value.name for value in graph.output if value.name not in own)
