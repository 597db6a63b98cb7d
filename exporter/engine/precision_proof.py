"""Read the types that an engine computes in, and check them against the precision.

TensorRT's definitions are strongly typed, and ONNX Runtime keeps the types of a graph, so both fix the types of an
engine before it is built. Convolutions and matrix products compute in the requested precision, all else in that or in
float32. What is always float32, decoding and scores, is in the operators between engines.

An int8 layer is defined by nodes that dequantise its input and its weights, and TensorRT computes it in int8. Every
layer must be in int8 where it is in ``model.onnx``, and in the type of the rest, float32 or float16, elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Network
from frcnn.exporter.engine.shape_inference import elements_of
from frcnn.exporter.graph.nodes import HEAVY, int8_layers
from frcnn.spec import Precision
from frcnn.spec.engine import TENSORRT_ELEMENTS, PrecisionRecord

ELEMENT_OF_PRECISION: Final[Mapping[Precision, str]] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
}

_HEAVY: Final = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", *HEAVY})
"""TensorRT's layers, and ONNX's operators."""

_DEQUANTIZE: Final = "DEQUANTIZE"
_ONLY_RESHAPES: Final = "SHUFFLE"
_PLUGINS: Final = frozenset({"PLUGIN", "PLUGIN_V2", "PLUGIN_V3"})
_FLOATING: Final = frozenset(("float32", "float16", "bfloat16"))
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_MAX_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of an engine that has floating-point tensors.

    It is computed in the element types of these, outputs first, without repeats; a convolution or matrix product that
    reads int8 in ``int8`` alone.
    """

    step: int
    node: str  # of model.onnx that it comes from, or its own name if there is none
    kind: str  # TensorRT's layer type, or ONNX's operator
    computed_in: tuple[str, ...]

    @property
    def is_heavy(self) -> bool:
        """Whether it is a convolution or matrix product."""
        return self.kind in _HEAVY


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The proof that all heavy layers compute in a precision, with all layers that have floating-point tensors."""

    precision: Precision
    heavy: int  # number of heavy layers
    lower: int  # number of those that compute in the precision: fewer in int8 only
    rest: Precision  # of the others
    layers: tuple[Layer, ...]

    @property
    def summary(self) -> str:
        """One line: ``80 of 80 convolutions and matrix products in fp16``."""
        others = f", {self.heavy - self.lower} in {self.rest}" if self.lower < self.heavy else ""
        return f"{self.lower} of {self.heavy} convolutions and matrix products in {self.precision}{others}"

    def records(self) -> tuple[PrecisionRecord, ...]:
        """Return a record for every layer."""
        return tuple(
            PrecisionRecord(
                step=layer.step, layer=layer.node, type=layer.kind, element=layer.computed_in[0], heavy=layer.is_heavy
            )
            for layer in self.layers
        )


def layers_of_network(network: Network, step: int) -> tuple[Layer, ...]:
    """Read the layers of a network definition; what plugins compute in is their kernels' matter."""
    definition = network.definition
    every = [definition.get_layer(index) for index in range(definition.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in every for i in range(layer.num_outputs)}
    layers = []
    for layer in every:
        tensors = [*map(layer.get_output, range(layer.num_outputs)), *map(layer.get_input, range(layer.num_inputs))]
        names = [tensor.dtype.name for tensor in tensors if tensor is not None]
        computed_in = _floating(TENSORRT_ELEMENTS.get(name, name) for name in names)
        if computed_in and layer.type.name not in _PLUGINS:
            if layer.type.name in _HEAVY and _reads_int8(layer, makers):
                computed_in = ("int8",)
            node = match[1] if (match := _NODE.search(layer.metadata)) else layer.name
            layers.append(Layer(step=step, node=node, kind=layer.type.name, computed_in=computed_in))
    return tuple(layers)


def _reads_int8(layer: Any, makers: Mapping[str, Any]) -> bool:
    """Return whether a layer's input and weights are dequantised, but for a change of shape."""
    if layer.num_inputs < 2:
        return False
    for index in range(2):
        maker = makers.get(layer.get_input(index).name)
        while maker is not None and maker.type.name == _ONLY_RESHAPES:
            maker = makers.get(maker.get_input(0).name)
        if maker is None or maker.type.name != _DEQUANTIZE or maker.get_input(0).dtype.name != "INT8":
            return False
    return True


def layers_of_model(model: onnx.ModelProto, step: int) -> tuple[Layer, ...]:
    """Read the nodes of an ONNX model."""
    elements, int8 = elements_of(model), int8_layers(model.graph)
    layers = []
    for node in model.graph.node:
        computed_in = _floating(elements[name] for name in (*node.output, *node.input) if name in elements)
        if computed_in:
            kinds = ("int8",) if node.name in int8 else computed_in
            layers.append(Layer(step=step, node=node.name, kind=node.op_type, computed_in=kinds))
    return tuple(layers)


def prove(layers: Sequence[Layer], precision: Precision, *, int8: Collection[str] = (), rest: str = "float32") -> Proof:
    """Check that heavy layers compute in a precision and all others in that or float32; raise ExportError if not.

    Of an int8 ``model.onnx`` these are the layers in ``int8``; ``rest`` is the element type of its other heavy layers.
    """
    requested = ELEMENT_OF_PRECISION[precision]
    heavy = [layer for layer in layers if layer.is_heavy]
    expected = {layer.node: requested for layer in heavy if precision != "int8" or layer.node in int8}
    wrong = [layer for layer in heavy if layer.computed_in != (expected.get(layer.node, rest),)]
    lower = [layer for layer in heavy if layer.node in expected]
    if wrong or not lower:
        count = f"all {len(heavy)}" if lower == heavy else f"{len(lower)} of {len(heavy)}"
        raise _failure(
            wrong,
            f"precision: expected {count} convolutions and matrix products of the backbone "
            f"and the heads in {precision}, got {len(heavy) - len(wrong)}" + (f"; not {_list(wrong)}" if wrong else ""),
            hint=_again(precision),
        )
    allowed = {"float32", requested, *([rest] if precision == "int8" else [])}
    wrong = [layer for layer in layers if not set(layer.computed_in) <= allowed]
    if wrong:
        raise _failure(
            wrong,
            f"precision: expected every layer in {precision} or fp32, got {len(wrong)} of another type: {_list(wrong)}",
            hint="export the checkpoint again with this version of frcnn",
        )
    (others,) = (name for name, element in ELEMENT_OF_PRECISION.items() if element == rest)
    return Proof(precision=precision, heavy=len(heavy), lower=len(lower), rest=others, layers=tuple(layers))


def _again(precision: Precision) -> str:
    if precision == "int8":
        return "quantise the model again with this version of frcnn: frcnn quantize model.onnx --for tensorrt"
    return (
        f"export the checkpoint again with --precision {precision}; for a custom module, let it compute in the type of "
        "its input"
    )


def _floating(elements: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(element for element in elements if element in _FLOATING))


def _failure(layers: Sequence[Layer], message: str, *, hint: str) -> ExportError:
    error = ExportError(message, hint=hint)
    for layer in layers:
        error.add_note(f"step {layer.step}: {layer.node}: {layer.kind} in {'/'.join(layer.computed_in)}")
    return error


def _list(layers: Sequence[Layer]) -> str:
    named = ", ".join(f"{layer.node} ({'/'.join(layer.computed_in)})" for layer in layers[:_MAX_NAMED])
    rest = len(layers) - _MAX_NAMED
    return f"{named} and {rest} more" if rest > 0 else named
