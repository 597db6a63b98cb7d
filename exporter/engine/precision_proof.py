"""Read the types that an engine computes in, and check them against the precision.

TensorRT's definitions are strongly typed, and ONNX Runtime keeps the types of a graph, so both fix the types of an
engine before it is built. Convolutions and matrix products compute in the requested precision, all else in that or in
float32. What is always float32, decoding and scores, is in the operators between engines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Network
from frcnn.exporter.engine.shape_inference import elements_of
from frcnn.spec import Precision
from frcnn.spec.engine import TENSORRT_ELEMENTS, PrecisionRecord

__all__ = ["ELEMENT_OF_PRECISION", "Layer", "Proof", "layers_of_model", "layers_of_network", "prove"]

ELEMENT_OF_PRECISION: Final[Mapping[Precision, str]] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

_HEAVY: Final = frozenset(
    {
        *("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"),  # TensorRT's layers
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"),  # ONNX's operators
    }
)
_PLUGINS: Final = frozenset({"PLUGIN", "PLUGIN_V2", "PLUGIN_V3"})
_FLOATING: Final = frozenset(ELEMENT_OF_PRECISION.values())
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_MAX_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of an engine that has floating-point tensors.

    Attributes:
        node: the node of ``model.onnx`` that it comes from, or its own name if there is none.
        kind: TensorRT's layer type, or ONNX's operator.
        computed_in: element types of its floating-point tensors, outputs first, without repeats.
    """

    step: int
    node: str
    kind: str
    computed_in: tuple[str, ...]

    @property
    def is_heavy(self) -> bool:
        """Whether it is a convolution or matrix product."""
        return self.kind in _HEAVY


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
        """Return a record for every layer."""
        return tuple(
            PrecisionRecord(
                step=layer.step,
                layer=layer.node,
                type=layer.kind,
                element=layer.computed_in[0],
                heavy=layer.is_heavy,
            )
            for layer in self.layers
        )


def layers_of_network(network: Network, step: int) -> tuple[Layer, ...]:
    """Read the layers of a network definition; what plugins compute in is their kernels' matter."""
    layers = []
    for layer in map(network.definition.get_layer, range(network.definition.num_layers)):
        tensors = [*map(layer.get_output, range(layer.num_outputs)), *map(layer.get_input, range(layer.num_inputs))]
        names = [tensor.dtype.name for tensor in tensors if tensor is not None]
        computed_in = _floating(TENSORRT_ELEMENTS.get(name, name) for name in names)
        if computed_in and layer.type.name not in _PLUGINS:
            node = match[1] if (match := _NODE.search(layer.metadata)) else layer.name
            layers.append(Layer(step=step, node=node, kind=layer.type.name, computed_in=computed_in))
    return tuple(layers)


def layers_of_model(model: onnx.ModelProto, step: int) -> tuple[Layer, ...]:
    """Read the nodes of an ONNX model."""
    elements = elements_of(model)
    layers = []
    for node in model.graph.node:
        computed_in = _floating(elements[name] for name in (*node.output, *node.input) if name in elements)
        if computed_in:
            layers.append(Layer(step=step, node=node.name, kind=node.op_type, computed_in=computed_in))
    return tuple(layers)


def prove(layers: Sequence[Layer], precision: Precision) -> Proof:
    """Check that heavy layers compute in a precision and all others in that or float32; raise ExportError if not."""
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
    wrong = [layer for layer in layers if not set(layer.computed_in) <= {"float32", requested}]
    if wrong:
        raise _failure(
            wrong,
            f"precision: expected every layer in {precision} or fp32, got {len(wrong)} of another type: {_list(wrong)}",
            hint="export the checkpoint again with this version of frcnn",
        )
    return Proof(precision=precision, heavy=len(heavy), layers=tuple(layers))


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
