"""The precision of the convolutions and matrix products of an ONNX graph, told from its types without its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_DEQUANTIZE: Final = "DequantizeLinear"
_PRECISIONS: Final[Mapping[str, str]] = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrecision:
    """A convolution or matrix product: its node's name and operator, and ``precision`` as ``fp32`` or ``int8``."""

    name: str
    operator: str
    precision: str


def layer_precisions(graph: Any, onnx: Any) -> tuple[LayerPrecision, ...]:
    """Return the convolutions and matrix products of an ONNX graph, in its order.

    A layer is int8 where DequantizeLinear makes both its factors. Elsewhere its precision is their type, or the type of
    the scale of one that is dequantised; ``"unknown"`` where the graph does not state it.

    Args:
        graph: a ``GraphProto``; initializers need no values.
        onnx: the package.
    """
    scales = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == _DEQUANTIZE and len(node.output) == 1 and len(node.input) > 1
    }
    types = dict(_types(graph, onnx))
    layers = []
    for node in graph.node:
        if node.op_type in _HEAVY and node.domain in ("", "ai.onnx"):
            factors = node.input[:2]
            known = [types[name] for name in (scales.get(factor, factor) for factor in factors) if name in types]
            is_int8 = len(factors) == 2 and all(name in scales for name in factors)
            precision = "int8" if is_int8 else next(iter(known), "unknown")
            layers.append(LayerPrecision(name=node.name, operator=node.op_type, precision=precision))
    return tuple(layers)


def count_precisions(layers: Sequence[LayerPrecision]) -> dict[str, int]:
    """Return precision -> number of layers, most frequent first."""
    return dict(Counter(layer.precision for layer in layers).most_common())


def _types(graph: Any, onnx: Any) -> Iterator[tuple[str, str]]:
    """Yield the values of floating-point types and their precisions."""
    names = {getattr(onnx.TensorProto, name): precision for name, precision in _PRECISIONS.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (kind := value.type.tensor_type.elem_type) in names:
            yield value.name, names[kind]
    for tensor in graph.initializer:
        if tensor.data_type in names:
            yield tensor.name, names[tensor.data_type]
