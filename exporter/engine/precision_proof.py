"""Which types an engine computes in, read off its network definition and held to what was asked for.

A strongly typed definition fixes the types of its engine, so this is known before anything is built. The heavy parts
(backbone, RPN head, box head, predictor) run their convolutions and matrix products in the type that was asked for. All
other arithmetic is on boxes and scores, which half precision would move: it is float32 always. Copies, gathers, TopK
and the like compute nothing and may carry either.
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
"""How the names of the heavy parts' nodes begin."""

_HEAVY_TYPES: Final = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"})
_MOVES: Final = frozenset(
    {
        "ASSERTION",
        "CAST",
        "CONCATENATION",
        "CONDITION",
        "CONDITIONAL_INPUT",
        "CONDITIONAL_OUTPUT",
        "CONSTANT",
        "GATHER",
        "IDENTITY",
        "NON_ZERO",
        "ONE_HOT",
        "PADDING",
        "REVERSE_SEQUENCE",
        "SCATTER",
        "SELECT",
        "SHAPE",
        "SHUFFLE",
        "SLICE",
        "SQUEEZE",
        "TOPK",
        "UNSQUEEZE",
    }
)
"""Layers that compute nothing; whatever is not named here counts as arithmetic."""

_PLUGINS: Final = frozenset({"PLUGIN", "PLUGIN_V2", "PLUGIN_V3"})
_POOLING: Final = "MultiscaleRoI"
_FLOATING: Final = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_NAMED_AT_MOST: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of a network definition, or an operator between engines.

    Attributes:
        step: index of the step that it is in.
        node: the node of ``model.onnx`` that it comes from; its own name where it comes from none.
        kind: TensorRT's layer type, or the operator.
        computed_in: element types of its floating tensors that are computed with, in order, each once.
        element: element type of its first floating output, or of its first floating input where none is.
        is_heavy: whether it is a convolution or matrix product of a heavy part.
        is_free: whether it may compute in half precision, being of a heavy part.
        is_arithmetic: whether it computes.
    """

    step: int
    node: str
    kind: str
    computed_in: tuple[str, ...]
    element: str
    is_heavy: bool
    is_free: bool
    is_arithmetic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was proved.

    Attributes:
        precision: what the heavy layers compute in, all of them.
        heavy: how many there are.
        layers: all layers with floating tensors.
    """

    precision: Precision
    heavy: int
    layers: tuple[Layer, ...]

    @property
    def summary(self) -> str:
        """What was proved in a few words: ``80 of 80 convolutions and matrix products in fp16``."""
        return f"{self.heavy} of {self.heavy} convolutions and matrix products in {self.precision}"

    def records(self) -> tuple[PrecisionRecord, ...]:
        """Return the report: a record for every layer of an engine."""
        return tuple(
            PrecisionRecord(
                step=layer.step, layer=layer.node, type=layer.kind, element=layer.element, heavy=layer.is_heavy
            )
            for layer in self.layers
            if layer.kind not in OPERATORS
        )


def read_layers(network: Network, step: int) -> tuple[Layer, ...]:
    """Read the layers with floating tensors off a network definition, that of a step by its index."""
    definition = network.definition
    found = [definition.get_layer(index) for index in range(definition.num_layers)]
    nodes = _nodes(found, network.makers)
    layers = []
    for raw, node in zip(found, nodes, strict=True):
        inputs = [t for t in map(raw.get_input, range(raw.num_inputs)) if t is not None]
        outputs = list(map(raw.get_output, range(raw.num_outputs)))
        kind = raw.type.name
        is_pooling = kind in _PLUGINS and _POOLING in raw.name  # maps may be half; the RoIs may not
        computed_in = _floating(inputs[:1] if is_pooling else [*inputs, *outputs])
        if not computed_in:
            continue
        is_free = node.startswith(HEAVY_SCOPES)
        layers.append(
            Layer(
                step=step,
                node=node,
                kind=kind,
                computed_in=computed_in,
                element=next(iter((*_floating(outputs), *computed_in))),
                is_heavy=is_free and kind in _HEAVY_TYPES,
                is_free=is_free,
                is_arithmetic=kind not in _MOVES,
            )
        )
    return tuple(layers)


def operator_layer(operator: OperatorStep, step: int, tensors: Mapping[str, EngineTensor]) -> Layer:
    """Return an operator between engines as a layer: suppression compares boxes and scores, pooling reads RoIs."""
    compared = operator.inputs[:1] if operator.operator.startswith(_POOLING) else operator.inputs
    return Layer(
        step=step,
        node=operator.node,
        kind=operator.operator,
        computed_in=tuple(dict.fromkeys(str(tensors[name].element) for name in compared)),
        element=tensors[operator.output].element,
        is_heavy=False,
        is_free=False,
        is_arithmetic=True,
    )


def prove(layers: Sequence[Layer], precision: Precision) -> Proof:
    """Hold layers to a precision.

    Raises:
        ExportError: a heavy layer computes in another type, or arithmetic on boxes and scores is not float32; the
            message names them.
    """
    asked = ELEMENT_OF_PRECISION[precision]
    heavy = [layer for layer in layers if layer.is_heavy]
    wrong = [layer for layer in heavy if layer.computed_in != (asked,)]
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
        (True, {"float32", asked}, f"of the heavy parts in {precision} or fp32"),
    ):
        wrong = [layer for layer in arithmetic if layer.is_free == is_free and not set(layer.computed_in) <= allowed]
        if wrong:
            raise _failure(
                wrong,
                f"precision: expected arithmetic {what}, got {len(wrong)} of another type: {_list(wrong)}",
                hint="export the checkpoint again with this version of frcnn",
            )
    return Proof(precision=precision, heavy=len(heavy), layers=tuple(layers))


def _nodes(layers: Sequence[Any], makers: Mapping[str, str]) -> list[str]:
    """Return the node that each layer comes from.

    The parser of TensorRT 10 tells it of few layers only. One that makes a node's value is that node's, as the sum of
    product and bias is Gemm's; any other that the parser put in belongs to the first layer that reads it.
    """
    named = [match[1] if (match := _NODE.search(layer.metadata)) else _made(layer, makers) for layer in layers]
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


def _made(layer: Any, makers: Mapping[str, str]) -> str | None:
    values = (layer.get_output(index).name for index in range(layer.num_outputs))
    return next((makers[value] for value in values if value in makers), None)


def _floating(tensors: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_FLOATING[t.dtype.name] for t in tensors if t.dtype.name in _FLOATING))


def _failure(layers: Sequence[Layer], message: str, *, hint: str) -> ExportError:
    error = ExportError(message, hint=hint)
    for layer in layers:
        error.add_note(f"step {layer.step}: {layer.node}: {layer.kind} in {'/'.join(layer.computed_in)}")
    return error


def _list(layers: Sequence[Layer]) -> str:
    named = ", ".join(f"{layer.node} ({'/'.join(layer.computed_in)})" for layer in layers[:_NAMED_AT_MOST])
    rest = len(layers) - _NAMED_AT_MOST
    return f"{named} and {rest} more" if rest > 0 else named
