"""The graph in a model file: its inputs, outputs and operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from frcnn.errors import ArtifactError
from frcnn.runtime.dependencies import import_onnx
from frcnn.runtime.model_files.artifact import OnnxArtifact

__all__ = ["Network", "Value", "read_network"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output.

    Attributes:
        name: its name.
        dtype: its type, as ONNX names it (``FLOAT``).
        shape: each dimension, a number or a name.
    """

    name: str
    dtype: str
    shape: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a graph consists of.

    Attributes:
        opsets: operator domain -> version.
        inputs: what it takes.
        outputs: what it gives.
        operators: operator -> how often it occurs in the graph and its sub-graphs, most frequent first.
        functions: operator whose meaning is in the file -> the operators it is made of, counted.
    """

    opsets: dict[str, int]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: dict[str, int]
    functions: dict[str, dict[str, int]]


def read_network(artifact: OnnxArtifact) -> Network:
    """Read the graph of a model file, without its weights.

    Raises:
        ArtifactError: the graph is damaged.
        MissingDependencyError: the package ``onnx`` is not installed.
    """
    onnx = import_onnx()
    try:
        model = onnx.ModelProto.FromString(artifact.outline.model)
    except Exception as error:  # protobuf's DecodeError, whichever protobuf that is
        raise ArtifactError(f"{artifact.path}: the graph is damaged: {error}", hint="export the model again") from error
    return Network(
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        inputs=tuple(_value(value, onnx) for value in model.graph.input),
        outputs=tuple(_value(value, onnx) for value in model.graph.output),
        operators=_counted(model.graph.node),
        functions={
            _operator(function.domain, f"{function.name}:{function.overload}".rstrip(":")): _counted(function.node)
            for function in model.functions
        },
    )


def _value(value: Any, onnx: Any) -> Value:
    tensor = value.type.tensor_type
    shape = tuple(
        dimension.dim_param or (str(dimension.dim_value) if dimension.HasField("dim_value") else "?")
        for dimension in tensor.shape.dim
    )
    return Value(name=value.name, dtype=onnx.TensorProto.DataType.Name(tensor.elem_type), shape=shape)


def _counted(nodes: Iterable[Any]) -> dict[str, int]:
    return dict(Counter(_operator(node.domain, node.op_type) for node in _all_nodes(nodes)).most_common())


def _operator(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain not in ("", "ai.onnx") else name


def _all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes and those of their sub-graphs (branches and loop bodies)."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)
