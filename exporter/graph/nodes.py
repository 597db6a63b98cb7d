"""Nodes of an ONNX graph: their subgraphs, the values they read, and new names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import onnx

HEAVY: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")
"""Convolutions and matrix products."""


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, each followed by the nodes of its subgraphs at any depth."""
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from all_nodes(graph.node)


def is_standard(domain: str) -> bool:
    """Return whether a domain is ONNX's own."""
    return domain in ("", "ai.onnx")


def int8_layers(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names of the convolutions and matrix products that read int8: two values of DequantizeLinear."""
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return frozenset(
        node.name
        for node in graph.node
        if node.op_type in HEAVY and is_standard(node.domain) and dequantized.issuperset(node.input[:2])
    )


def quantized_values(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the values that are rounded to int8 and back, by the result: what a DequantizeLinear makes of them."""
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    back = (node for node in graph.node if node.op_type == "DequantizeLinear")
    return {node.output[0]: rounded[node.input[0]] for node in back if node.input[0] in rounded}


def read_values(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the names of the values a node reads, without repeats: its inputs, then what its subgraphs capture."""
    captured = (name for graph in _subgraphs(node) for name in _captured(graph))
    return tuple(dict.fromkeys(name for name in (*node.input, *captured) if name))


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
