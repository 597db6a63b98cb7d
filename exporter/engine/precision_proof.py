"""Read the types that an engine computes in from its network definition, and check them against the precision.

A strongly typed definition fixes the types of its engine before the build. The heavy parts (backbone, RPN head, box
head, predictor) compute convolutions and matrix products in the requested precision. All other arithmetic is on boxes
and scores and always in float32. Copies, gathers, TopK and similar layers compute nothing and may have any type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Network
from frcnn.plugins import OPERATORS
from frcnn.spec import Precision
from frcnn.spec.engine import EngineTensor, OperatorStep, PrecisionRecord

__all__ = ["ELEMENT_OF_PRECISION", "HEAVY_SCOPES", "Layer", "Proof", "operator_layer", "prove", "read_layers"]

ELEMENT_OF_PRECISION: Final[Mapping[Precision, str]] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

HEAVY_SCOPES: Final = ("backbone/", "rpn/head/", "roi_heads/box_head/", "roi_heads/box_predictor/")
"""Prefixes of the names of nodes in the heavy parts."""

_HEAVY_TYPES: Final = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"})
_MOVES: Final = frozenset(
    {
        *("ASSERTION", "CAST", "CONCATENATION", "CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT", "CONSTANT"),
        *("GATHER", "IDENTITY", "NON_ZERO", "ONE_HOT", "PADDING", "REVERSE_SEQUENCE", "SCATTER", "SELECT", "SHAPE"),
        *("SHUFFLE", "SLICE", "SQUEEZE", "TOPK", "UNSQUEEZE"),
    }
)
"""Layers that compute nothing; all others count as arithmetic."""

_PLUGINS: Final = frozenset({"PLUGIN", "PLUGIN_V2", "PLUGIN_V3"})
_POOLING: Final = "MultiscaleRoI"
_FLOATING: Final = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_MAX_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of a network definition, or an operator between engines.

    Attributes:
        node: the node of ``model.onnx`` that it comes from, or its own name if there is none.
        kind: TensorRT's layer type, or the operator.
        computed_in: element types of the floating-point tensors that it computes with, without repeats.
        element: element type of its first floating-point output, or else input.
    """

    step: int
    node: str
    kind: str
    computed_in: tuple[str, ...]
    element: str

    @property
    def is_free(self) -> bool:
        """Whether it may compute in half precision, because it is in a heavy part."""
        return self.node.startswith(HEAVY_SCOPES)

    @property
    def is_heavy(self) -> bool:
        """Whether it is a convolution or matrix product of a heavy part."""
        return self.is_free and self.kind in _HEAVY_TYPES

    @property
    def is_arithmetic(self) -> bool:
        """Whether it computes anything."""
        return self.kind not in _MOVES


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The proof that all heavy layers compute in a precision, with all layers that have floating-point tensors."""

    precision: Precision
    heavy: int
    layers: tuple[Layer, ...]

    @property
    def summary(self) -> str:
        """One line: ``80 of 80 convolutions and matrix products in fp16``."""
        return f"{self.heavy} of {self.heavy} convolutions and matrix products in {self.precision}"

    def records(self) -> tuple[PrecisionRecord, ...]:
        """Return a record for every layer of an engine."""
        return tuple(
            PrecisionRecord(
                step=layer.step, layer=layer.node, type=layer.kind, element=layer.element, heavy=layer.is_heavy
            )
            for layer in self.layers
            if layer.kind not in OPERATORS
        )


def read_layers(network: Network, step: int) -> tuple[Layer, ...]:
    """Read the layers with floating-point tensors from the network definition of a step."""
    definition = network.definition
    found = [definition.get_layer(index) for index in range(definition.num_layers)]
    nodes = _nodes(found, network.producers)
    layers = []
    for raw, node in zip(found, nodes, strict=True):
        inputs = [t for t in map(raw.get_input, range(raw.num_inputs)) if t is not None]
        outputs = list(map(raw.get_output, range(raw.num_outputs)))
        kind = raw.type.name
        is_pooling = kind in _PLUGINS and _POOLING in raw.name  # feature maps may be in half precision, RoIs may not
        computed_in = _floating(inputs[:1] if is_pooling else [*inputs, *outputs])
        if not computed_in:
            continue
        element = next(iter((*_floating(outputs), *computed_in)))
        layers.append(Layer(step=step, node=node, kind=kind, computed_in=computed_in, element=element))
    return tuple(layers)


def operator_layer(operator: OperatorStep, step: int, tensors: Mapping[str, EngineTensor]) -> Layer:
    """Return an operator between engines as a layer; of pooling, only the RoIs count as computed with."""
    compared = operator.inputs[:1] if operator.operator.startswith(_POOLING) else operator.inputs
    return Layer(
        step=step,
        node=operator.node,
        kind=operator.operator,
        computed_in=tuple(dict.fromkeys(str(tensors[name].element) for name in compared)),
        element=tensors[operator.output].element,
    )


def prove(layers: Sequence[Layer], precision: Precision) -> Proof:
    """Check that heavy layers compute in a precision and arithmetic on boxes in float32; raise ExportError if not."""
    requested = ELEMENT_OF_PRECISION[precision]
    heavy = [layer for layer in layers if layer.is_heavy]
    wrong = [layer for layer in heavy if layer.computed_in != (requested,)]
    if wrong or not heavy:
        raise _failure(
            wrong,
            f"precision: expected all {len(heavy)} convolutions and matrix products of the backbone and the heads in "
            f"{precision}, got {len(heavy) - len(wrong)}" + (f"; not {_list(wrong)}" if wrong else ""),
            hint=f"export the checkpoint again with --precision {precision}; for a custom module, let it compute in the"
            " type of its input",
        )
    arithmetic = [layer for layer in layers if layer.is_arithmetic]
    for is_free, allowed, what in (
        (False, {"float32"}, "on boxes and scores in float32"),
        (True, {"float32", requested}, f"of the heavy parts in {precision} or fp32"),
    ):
        wrong = [layer for layer in arithmetic if layer.is_free == is_free and not set(layer.computed_in) <= allowed]
        if wrong:
            raise _failure(
                wrong,
                f"precision: expected arithmetic {what}, got {len(wrong)} of another type: {_list(wrong)}",
                hint="export the checkpoint again with this version of frcnn",
            )
    return Proof(precision=precision, heavy=len(heavy), layers=tuple(layers))


def _nodes(layers: Sequence[Any], producers: Mapping[str, str]) -> list[str]:
    """Return the node that each layer comes from.

    The parser of TensorRT 10 records it for few layers only. A layer that makes a node's value belongs to that node,
    like the sum of a Gemm; any other layer that the parser inserted belongs to the first layer that reads it.
    """
    named = [match[1] if (match := _NODE.search(layer.metadata)) else _made(layer, producers) for layer in layers]
    reader: dict[str, int] = {}
    for index, layer in enumerate(layers):
        for tensor in map(layer.get_input, range(layer.num_inputs)):
            if tensor is not None:
                reader.setdefault(tensor.name, index)
    nodes: list[str] = []
    for index, layer in enumerate(layers):
        seen: set[int] = set()
        at: int | None = index
        while at is not None and named[at] is None and at not in seen:
            seen.add(at)
            current = layers[at]
            names = (current.get_output(i).name for i in range(current.num_outputs))
            at = next((reader[name] for name in names if name in reader), None)
        found = named[at] if at is not None else None
        nodes.append(found or layer.name)
    return nodes


def _made(layer: Any, producers: Mapping[str, str]) -> str | None:
    values = (layer.get_output(index).name for index in range(layer.num_outputs))
    return next((producers[value] for value in values if value in producers), None)


def _floating(tensors: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_FLOATING[t.dtype.name] for t in tensors if t.dtype.name in _FLOATING))


def _failure(layers: Sequence[Layer], message: str, *, hint: str) -> ExportError:
    error = ExportError(message, hint=hint)
    for layer in layers:
        error.add_note(f"step {layer.step}: {layer.node}: {layer.kind} in {'/'.join(layer.computed_in)}")
    return error


def _list(layers: Sequence[Layer]) -> str:
    named = ", ".join(f"{layer.node} ({'/'.join(layer.computed_in)})" for layer in layers[:_MAX_NAMED])
    rest = len(layers) - _MAX_NAMED
    return f"{named} and {rest} more" if rest > 0 else named
