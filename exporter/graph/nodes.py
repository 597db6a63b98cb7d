"""Nodes of an ONNX graph: their subgraphs, the values they read, and the functions they call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx
import onnx.inliner

from frcnn.errors import ExportError

__all__ = [
    "IsCut",
    "all_nodes",
    "inline_functions",
    "is_standard",
    "read_values",
    "refuse_in_subgraphs",
    "title",
    "unique_name",
]

IsCut = Callable[[onnx.NodeProto], bool]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, each followed by the nodes of its subgraphs at any depth."""
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from all_nodes(graph.node)


def inline_functions(model: onnx.ModelProto, is_kept: IsCut) -> onnx.ModelProto:
    """Return a model in which the only functions are those of nodes that ``is_kept`` selects."""
    bodies = (node for function in model.functions for node in function.node)
    kept = {(node.domain, node.op_type) for node in all_nodes((*model.graph.node, *bodies)) if is_kept(node)}
    if kept.issuperset((function.domain, function.name) for function in model.functions):
        return model
    return onnx.inliner.inline_selected_functions(model, list(kept), exclude=True)


def refuse_in_subgraphs(nodes: Iterable[onnx.NodeProto], is_refused: IsCut) -> None:
    """Raise ExportError if ``is_refused`` selects a node inside the subgraphs of ``nodes``, at any depth."""
    for node in nodes:
        for graph in _subgraphs(node):
            for inner in filter(is_refused, all_nodes(graph.node)):
                raise ExportError(
                    f"{title(inner)} is in a subgraph; expected it in the main graph",
                    hint="inline the model's conditions and loops first",
                )


def is_standard(domain: str) -> bool:
    """Return whether a domain is ONNX's own."""
    return domain in ("", "ai.onnx")


def read_values(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the names of the values a node reads, without repeats: its inputs, then what its subgraphs capture."""
    captured = (name for graph in _subgraphs(node) for name in _captured(graph))
    return tuple(dict.fromkeys(name for name in (*node.input, *captured) if name))


def title(node: onnx.NodeProto) -> str:
    """Return the name of a node for messages."""
    return f"node {(node.name or next(iter(node.output), node.op_type))!r}"


def unique_name(name: str, taken: set[str]) -> str:
    """Return ``name``, numbered if it is taken, and add it to ``taken``."""
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
    """Yield the names that a subgraph reads from outside."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        yield from (name for name in read_values(node) if name not in own)
        own.update(node.output)
    yield from (value.name for value in graph.output if value.name not in own)
