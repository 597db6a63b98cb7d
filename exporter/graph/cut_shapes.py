"""Whose shape a piece looks at: a value that it reads anyway, rather than one that would cross the cut for it alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import onnx

from frcnn.exporter.graph.cut_types import Dim, ValueTypes

__all__ = ["measure_another"]

_RANGES_SINCE: Final = 15  # the opset in which Shape got start and end


def measure_another(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    types: ValueTypes,
    read_anyway: Iterable[str],
    model_inputs: tuple[str, ...],
) -> onnx.NodeProto:
    """Return a ``Shape`` or ``Size`` node, or one that gives the same of a value that is cheaper to come by.

    A symbol stands for one size throughout a model, so a value serves whose stated shape has the same sizes and symbols
    in a row. First come what the piece reads anyway, then the model's inputs, which are there anyway.

    Args:
        node: left as it is.
        model: the model that is cut.
        types: of its values.
        read_anyway: values that the piece reads for other reasons.
        model_inputs: inputs of the model.
    """
    measured = node.input[0]
    read_anyway = list(read_anyway)
    if measured in read_anyway:
        return node
    others = model_inputs if measured not in model_inputs else ()
    return next((other for name in (*read_anyway, *others) if (other := _of(node, name, model, types))), node)


def _of(node: onnx.NodeProto, name: str, model: onnx.ModelProto, types: ValueTypes) -> onnx.NodeProto | None:
    """Return the node that gives of a value what ``node`` gives of its own, or None where it is not known to."""
    own, dims = types.shape(node.input[0]), types.shape(name)
    if own is None or dims is None:
        return None
    start, end = _range(node, len(own))
    sizes = own[start:end]
    if not sizes or None in sizes:
        return None
    at = _find(sizes, dims)
    if at is None:
        return None
    other = onnx.NodeProto()
    other.CopyFrom(node)
    other.input[0] = name
    other.ClearField("attribute")
    if len(sizes) < len(dims):
        opset = max(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
        if node.op_type != "Shape" or opset < _RANGES_SINCE:
            return None
        for key, value in (("start", at), ("end", at + len(sizes))):
            other.attribute.append(onnx.helper.make_attribute(key, value))
    return other


def _range(node: onnx.NodeProto, rank: int) -> tuple[int, int]:
    """Return the dimensions that a node looks at, as ONNX reads ``start`` and ``end``."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    start, end = (
        min(max(value + rank if value < 0 else value, 0), rank)
        for value in (given.get("start", 0), given.get("end", rank))
    )
    return start, end


def _find(sizes: tuple[Dim, ...], dims: tuple[Dim, ...]) -> int | None:
    """Return where sizes are in a row in a shape, or None."""
    places = range(len(dims) - len(sizes) + 1)
    return next((at for at in places if dims[at : at + len(sizes)] == sizes), None)
