"""Types and shapes of the values of a graph that is cut: as the model states them, else as ONNX infers them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import onnx
import onnx.shape_inference

from frcnn.errors import ExportError
from frcnn.exporter.graph.cut_flow import Flow
from frcnn.exporter.graph.nodes import is_standard, title
from frcnn.plugins import DOMAIN, OPERATORS

__all__ = ["MIN_IR_VERSION", "ValueTypes"]

MIN_IR_VERSION: Final = 4
"""From this IR version on, an initializer need not be an input as well."""

Dim = int | str | None
"""A size, a symbol with one value throughout the model, or unknown."""

_MAX_KEPT_ELEMENTS: Final = 1024  # inference needs the values of shapes and axes, which are smaller than weights
_GENERATED_SYMBOL: Final = "unk__"  # prefix of the symbols that inference generates
_SHAPE_RANGE_OPSET: Final = 15  # the opset in which Shape got start and end
_ELEMENTS: Final = {
    "float32": onnx.TensorProto.FLOAT,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}


class ValueTypes:
    """Types of a model's values; inference runs on the first request for a type that the model does not state."""

    def __init__(self, model: onnx.ModelProto, flow: Flow) -> None:
        self._model, self._flow = model, flow
        self._inferred = False
        graph = model.graph
        values = (*graph.value_info, *graph.output, *graph.input)
        self._types = {value.name: value.type for value in values if _is_known(value.type)}

    def of(self, name: str) -> onnx.TypeProto:
        """Return the type of a value that crosses a cut; raise ExportError if it is not known."""
        if name in self._flow.constants:
            return _type_of(self._flow.constants[name])
        if name not in self._types and not self._inferred:
            self._infer()
        if name not in self._types:
            producer = self._flow.producers.get(name)
            where = f"input {name!r}" if producer is None else f"output {name!r} of {title(producer.node)}"
            raise ExportError(
                f"the element type or the number of dimensions of the {where} is not known",
                hint="state it in the model's value_info, which onnx.shape_inference.infer_shapes fills in",
            )
        known: onnx.TypeProto = self._types[name]
        return known

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Return the shape that the model states for a value, or None where it states none."""
        if name not in self._types or not self._types[name].HasField("tensor_type"):
            return None
        return _dims(self._types[name])

    def with_cheapest_source(self, node: onnx.NodeProto, inputs: Iterable[str]) -> onnx.NodeProto:
        """Return a ``Shape`` or ``Size`` node that reads a value which the piece has anyway, or else ``node`` itself.

        A symbol has one value throughout a model, so another value serves if its stated shape has the same sizes and
        symbols in a row.
        """
        measured, inputs, model_inputs = node.input[0], list(inputs), self._flow.inputs
        if measured in inputs:
            return node
        candidates = [*inputs, *(() if measured in model_inputs else model_inputs)]
        return next((other for name in candidates if (other := self._with_source(node, name))), node)

    def _with_source(self, node: onnx.NodeProto, name: str) -> onnx.NodeProto | None:
        """Return a node that gives the same from the shape of another value, or None if none is known to."""
        own, dims = self.shape(node.input[0]), self.shape(name)
        if own is None or dims is None:
            return None
        sizes = own[_dims_queried(node, len(own))]
        if not sizes or None in sizes:
            return None
        starts = range(len(dims) - len(sizes) + 1)
        start = next((start for start in starts if dims[start : start + len(sizes)] == sizes), None)
        if start is None:
            return None
        if len(sizes) == len(dims):
            return onnx.helper.make_node(node.op_type, [name], node.output, node.name, domain=node.domain)
        opset = max(opset.version for opset in self._model.opset_import if is_standard(opset.domain))
        if node.op_type != "Shape" or opset < _SHAPE_RANGE_OPSET:
            return None
        return onnx.helper.make_node("Shape", [name], node.output, node.name, start=start, end=start + len(sizes))

    def _infer(self) -> None:
        """Run ONNX's shape inference on the model without its weights and functions.

        ONNX does not know the operators of the domain ``frcnn``. Their outputs get the types of their specs, and
        inference runs again until it finds no more.
        """
        self._inferred = True
        ours = [placed.node for placed in self._flow.nodes if placed.node.domain == DOMAIN]
        while True:
            before = len(self._types)
            try:
                inferred = onnx.shape_inference.infer_shapes(self._without_weights(), data_prop=False)
            except onnx.shape_inference.InferenceError as error:
                first = str(error).strip().splitlines()[0]
                raise ExportError(f"ONNX cannot infer the types in the graph: {first}") from error
            for value in (*inferred.graph.value_info, *inferred.graph.output):
                if value.name not in self._types and _is_known(value.type):
                    self._types[value.name] = _without_generated_symbols(value.type)
            for node in ours:
                self._types = self._by_spec(node) | self._types
            if len(self._types) == before:
                return

    def _without_weights(self) -> onnx.ModelProto:
        flow, version = self._flow, max(self._model.ir_version, MIN_IR_VERSION)
        bare = onnx.ModelProto(ir_version=version, opset_import=self._model.opset_import)
        graph = bare.graph
        graph.name = self._model.graph.name
        graph.node.extend(placed.node for placed in flow.nodes)
        stated: dict[str, onnx.TypeProto] = {name: self._types[name] for name in flow.inputs if name in self._types}
        for name, constant in flow.constants.items():
            if _is_kept(constant):
                graph.initializer.append(constant)
            else:
                stated[name] = _type_of(constant)
        known = [name for name in flow.producers if name in self._types]
        graph.input.extend(onnx.ValueInfoProto(name=name, type=kind) for name, kind in stated.items())
        graph.value_info.extend(onnx.ValueInfoProto(name=name, type=self._types[name]) for name in known)
        return bare

    def _by_spec(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """Return the types of an operator's outputs by its spec; sizes that the spec computes are left open."""
        spec = OPERATORS.get(node.op_type)
        if spec is None:
            return {}
        formal = [t for t in spec.inputs for _ in range(len(node.input) - len(spec.inputs) + 1 if t.variadic else 1)]
        sizes: dict[str, Dim] = {attribute.name: attribute.i for attribute in node.attribute}
        features = None
        for tensor, name in zip(formal, node.input, strict=False):
            dims = self.shape(name)
            if dims is not None and len(dims) == len(tensor.shape):
                sizes = dict(zip(tensor.shape, dims, strict=True)) | sizes
            if tensor.element == "features" and name in self._types:
                features = self._types[name].tensor_type.elem_type
        types = {}
        for tensor, name in zip(spec.outputs, node.output, strict=False):
            element = features if tensor.element == "features" else _ELEMENTS[tensor.element]
            if name and element is not None:
                dims = tuple(int(size) if size.isdigit() else sizes.get(size) for size in tensor.shape)
                types[name] = onnx.helper.make_tensor_type_proto(element, dims)
        return types


def _is_known(kind: onnx.TypeProto) -> bool:
    """Return whether a type is what an input of a valid model has: for a tensor, its element type and dimensions."""
    if kind.HasField("tensor_type"):
        return kind.tensor_type.elem_type != onnx.TensorProto.UNDEFINED and kind.tensor_type.HasField("shape")
    return kind.WhichOneof("value") is not None


def _dims(kind: onnx.TypeProto) -> tuple[Dim, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.tensor_type.shape.dim
    )


def _without_generated_symbols(kind: onnx.TypeProto) -> onnx.TypeProto:
    for dim in kind.tensor_type.shape.dim if kind.HasField("tensor_type") else ():
        if dim.dim_param.startswith(_GENERATED_SYMBOL):
            dim.Clear()
    return kind


def _type_of(constant: onnx.TensorProto) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(constant.data_type, list(constant.dims))


def _is_kept(constant: onnx.TensorProto) -> bool:
    """Return whether inference may need the values of a constant, and has them."""
    return math.prod(constant.dims) <= _MAX_KEPT_ELEMENTS and constant.data_location != onnx.TensorProto.EXTERNAL


def _dims_queried(node: onnx.NodeProto, rank: int) -> slice:
    """Return the dimensions that a ``Shape`` node returns, by its attributes ``start`` and ``end``."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    return slice(*slice(given.get("start", 0), given.get("end", rank)).indices(rank)[:2])
