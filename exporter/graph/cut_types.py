"""The types of the values that cross a cut: as the model states them, else as ONNX infers them."""

from __future__ import annotations

import math
from typing import Final

import onnx
import onnx.shape_inference

from frcnn.errors import ExportError
from frcnn.exporter.graph.cut_flow import Flow
from frcnn.exporter.graph.nodes import title
from frcnn.plugins import DOMAIN, OPERATORS

__all__ = ["CONSTANTS_ARE_NO_INPUTS", "Dim", "ValueTypes"]

CONSTANTS_ARE_NO_INPUTS: Final = 4
"""The IR version since which an initializer need not be an input as well."""

Dim = int | str | None
"""A size, a symbol that stands for one throughout the model, or unknown."""

_LARGEST_SKETCHED: Final = 1024  # elements; shapes, axes and the like are smaller, weights are not
_MADE_UP: Final = "unk__"  # how inference begins the symbols that it makes up; they say nothing
_ELEMENTS: Final = {
    "float32": onnx.TensorProto.FLOAT,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}


class ValueTypes:
    """The types of a model's values; inference is run when the first is asked for that the model does not state."""

    def __init__(self, model: onnx.ModelProto, flow: Flow) -> None:
        self._model, self._flow = model, flow
        self._inferred = False
        graph = model.graph
        values = (*graph.value_info, *graph.output, *graph.input)
        self._types = {value.name: value.type for value in values if _is_known(value.type)}

    def of(self, name: str) -> onnx.TypeProto:
        """Return the type of a value that crosses a cut.

        Raises:
            ExportError: its element type or number of dimensions is not known.
        """
        constant = self._flow.constants.get(name)
        if constant is not None:
            return _type_of(constant)
        if name not in self._types and not self._inferred:
            self._infer()
        if name not in self._types:
            maker = self._flow.makers.get(name)
            where = f"input {name!r}" if maker is None else f"output {name!r} of {title(maker.node)}"
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

    def _infer(self) -> None:
        """Run ONNX's inference over a sketch of the model: no weights, and no bodies of nodes that are cut.

        A cut node of ours is unknown to ONNX; what its spec says of its outputs is told to the next round.
        """
        self._inferred = True
        ours = [p.node for p in self._flow.nodes if p.role == "cut" and p.node.domain == DOMAIN]
        while True:
            before = len(self._types)
            try:
                inferred = onnx.shape_inference.infer_shapes(self._sketch(), data_prop=False)
            except onnx.shape_inference.InferenceError as error:
                first = str(error).strip().splitlines()[0]
                raise ExportError(f"ONNX cannot infer the types in the graph: {first}") from error
            for value in (*inferred.graph.value_info, *inferred.graph.output):
                if value.name not in self._types and _is_known(value.type):
                    self._types[value.name] = _without_made_up(value.type)
            for node in ours:
                self._types |= {
                    name: kind for name, kind in self._by_spec(node).items() if name and name not in self._types
                }
            if len(self._types) == before:
                return

    def _sketch(self) -> onnx.ModelProto:
        model, flow = self._model, self._flow
        nodes = [placed.node for placed in flow.nodes]
        sketch = onnx.ModelProto(
            ir_version=max(model.ir_version, CONSTANTS_ARE_NO_INPUTS), opset_import=model.opset_import
        )
        sketch.functions.extend(flow.functions.called_by(placed.node for placed in flow.nodes if placed.role != "cut"))
        sketch.graph.name = model.graph.name
        sketch.graph.node.extend(nodes)
        stated: dict[str, onnx.TypeProto] = {name: self._types[name] for name in flow.inputs if name in self._types}
        for name, constant in flow.constants.items():
            if isinstance(constant, onnx.TensorProto) and _is_sketched(constant):
                sketch.graph.initializer.append(constant)
            else:
                stated[name] = _type_of(constant)
        sketch.graph.input.extend(_value(name, kind) for name, kind in stated.items())
        sketch.graph.value_info.extend(_value(name, self._types[name]) for name in flow.makers if name in self._types)
        return sketch

    def _by_spec(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """Return what the spec of an operator of ours says of a node's outputs; sizes that need sums are left open."""
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
            if element is not None:
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


def _without_made_up(kind: onnx.TypeProto) -> onnx.TypeProto:
    for dim in kind.tensor_type.shape.dim if kind.HasField("tensor_type") else ():
        if dim.dim_param.startswith(_MADE_UP):
            dim.Clear()
    return kind


def _type_of(constant: onnx.TensorProto | onnx.SparseTensorProto) -> onnx.TypeProto:
    dims = list(constant.dims)
    if isinstance(constant, onnx.SparseTensorProto):
        return onnx.helper.make_tensor_type_proto(constant.values.data_type, dims)
    return onnx.helper.make_tensor_type_proto(constant.data_type, dims)


def _value(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name, type=kind)


def _is_sketched(constant: onnx.TensorProto) -> bool:
    """Return whether inference may need the values, and has them."""
    return math.prod(constant.dims) <= _LARGEST_SKETCHED and constant.data_location != onnx.TensorProto.EXTERNAL
