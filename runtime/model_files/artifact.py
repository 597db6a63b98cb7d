"""Model files: recognised by their content, their manifest, and the graph of a ``model.onnx``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from frcnn.errors import ArtifactError
from frcnn.files.archive import is_archive
from frcnn.runtime.dependencies import import_onnx
from frcnn.runtime.model_files.engine_artifact import EngineArtifact, open_engine_artifact
from frcnn.runtime.model_files.onnx_outline import Outline, read_outline
from frcnn.spec import MANIFEST_KEY, Manifest

_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_DEQUANTIZE: Final = "DequantizeLinear"
_PRECISIONS: Final[Mapping[str, str]] = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxArtifact:
    """A ``model.onnx`` made by ``frcnn export``."""

    path: Path
    manifest: Manifest
    outline: Outline


Artifact = OnnxArtifact | EngineArtifact
"""A model file made by ``frcnn export`` or ``frcnn build``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input or output of a graph; each dimension is a number or a name."""

    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrecision:
    """A convolution or matrix product: its node's name and operator, and ``precision`` as ``fp32`` or ``int8``."""

    name: str
    operator: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The contents of a graph.

    Attributes:
        opsets: operator domain -> version.
        operators: operator -> its count in the graph and its sub-graphs, most frequent first.
        functions: operator with a function body in the file -> the operators in the body, counted.
        layers: convolutions and matrix products, with their precision.
    """

    opsets: dict[str, int]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: dict[str, int]
    functions: dict[str, dict[str, int]]
    layers: tuple[LayerPrecision, ...]


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read the manifest of a model file, whatever its name, without loading its weights."""
    if is_archive(path):
        return open_engine_artifact(path)
    outline = read_outline(path)
    if MANIFEST_KEY not in outline.metadata:
        maker = f" (made by {outline.producer})" if outline.producer else ""
        raise ArtifactError(
            f"{os.fspath(path)}: an ONNX model, but not one of frcnn's: it has no {MANIFEST_KEY!r} in its "
            f"metadata{maker}",
            hint="make one from the checkpoint: frcnn export CHECKPOINT -o model.onnx",
        )
    manifest = Manifest.from_json(outline.metadata[MANIFEST_KEY], source=os.fspath(path))
    return OnnxArtifact(path=Path(path), manifest=manifest, outline=outline)


def read_network(artifact: OnnxArtifact) -> Network:
    """Read the graph of a model file, without its weights."""
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
        layers=layer_precisions(model.graph, onnx),
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
