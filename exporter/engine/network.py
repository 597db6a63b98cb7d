"""Parse an ONNX model into a strongly typed network definition of TensorRT or TensorRT-RTX.

The types of a strongly typed definition are those of the engine. TensorRT infers the shapes of a definition before it
builds anything, so the shapes between two engines are read from the definitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import onnx

from frcnn.errors import ExportError, FrcnnError
from frcnn.plugins.tensorrt import callback_error
from frcnn.spec.engine import TENSORRT_ELEMENTS, TensorElement

__all__ = ["Messages", "Network", "Shape", "element_of", "parse_network"]

Shape = tuple[int, ...]

_CREATION_FLAGS: Final = ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS")  # of the flags that the module has
_WEIGHTS: Final = re.compile(r"Total Weights Memory: (\d+) bytes")
_CACHE_LOST: Final = "Failed to deserialize timing cache"
_PLACE: Final = re.compile(r"\s*In \S+ at \S+:\d+")  # a line in NVIDIA's source code


@dataclass(slots=True)
class Messages:
    """Log messages of TensorRT, which are not printed.

    ``weights_bytes`` are those of the engine built last, if reported. ``is_cache_lost``: TensorRT could not read a
    timing cache, warned, and went on with an empty one.
    """

    has_plugins: bool = False
    errors: list[str] = field(default_factory=list)
    weights_bytes: int | None = None
    is_cache_lost: bool = False

    def logger(self, trt: ModuleType) -> Any:
        """Return an ``ILogger`` that records messages here."""

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(_self, severity: Any, message: str) -> None:  # noqa: N805  # TensorRT's self
                if severity.name in ("ERROR", "INTERNAL_ERROR"):
                    self.errors.append(" ".join(_PLACE.sub("", message).split()))
                elif _CACHE_LOST in message:
                    self.is_cache_lost = True
                elif found := _WEIGHTS.search(message):
                    self.weights_bytes = int(found[1])

        return Logger()

    def failure(self, what: str) -> FrcnnError:
        """Return the error of a failed step: that of a plugin, or the first one of TensorRT."""
        plugin = callback_error() if self.has_plugins else None
        if plugin is not None:
            return plugin
        error = ExportError(
            f"{what}: {next(iter(self.errors), 'TensorRT gives no reason')}",
            hint="--debug shows all messages of TensorRT after the traceback",
        )
        for line in self.errors:
            error.add_note(line)
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network definition of a step, and the objects that must live as long as it.

    ``producers`` maps a value of the ONNX model to the name of the node that produces it.
    """

    name: str
    trt: ModuleType
    messages: Messages
    builder: Any
    definition: Any
    parser: Any
    producers: Mapping[str, str]

    @property
    def inputs(self) -> dict[str, Any]:
        """The input tensors by name."""
        return {t.name: t for t in map(self.definition.get_input, range(self.definition.num_inputs))}

    @property
    def outputs(self) -> dict[str, Any]:
        """The output tensors by name."""
        return {t.name: t for t in map(self.definition.get_output, range(self.definition.num_outputs))}

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the shapes of the outputs for shapes of the inputs; the definition is not changed.

        Raises ExportError if the network does not accept these shapes, or a shape depends on data.
        """
        inputs = self.inputs
        declared = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        before = len(self.messages.errors)
        given = ", ".join(f"{name} {shape}" for name, shape in input_shapes.items())
        try:
            for name, tensor in inputs.items():
                tensor.shape = input_shapes[name]
            shapes = {name: tuple(map(int, tensor.shape)) for name, tensor in self.outputs.items()}
        except (RuntimeError, ValueError) as error:
            raise self.messages.failure(f"{self.name} does not take the shapes {given}") from error
        finally:
            for name, tensor in inputs.items():
                tensor.shape = declared[name]
        if len(self.messages.errors) > before:
            raise self.messages.failure(f"{self.name} does not take the shapes {given}")
        for name, shape in shapes.items():
            if min(shape, default=0) < 0:
                raise ExportError(
                    f"{self.name}: the shape of {name} depends on data, expected it to follow from {given}",
                    hint="a custom backbone or head with shapes that depend on data has no engine",
                )
        return shapes


def parse_network(trt: ModuleType, model: onnx.ModelProto, *, name: str) -> Network:
    """Parse a model without custom operators, or with plugins for them, into a strongly typed network definition.

    Raises ExportError, with TensorRT's reason, if TensorRT cannot parse it.
    """
    known = trt.NetworkDefinitionCreationFlag
    flags = [getattr(known, flag) for flag in _CREATION_FLAGS if hasattr(known, flag)]
    messages = Messages(has_plugins=hasattr(known, "PREFER_AOT_PYTHON_PLUGINS"))
    logger = messages.logger(trt)
    builder = trt.Builder(logger)
    definition = builder.create_network(sum(1 << int(flag) for flag in flags))
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse(model.SerializeToString()):
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            messages.errors.insert(index, f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}")
        raise messages.failure(f"TensorRT cannot take {name}")
    network = Network(
        name=name,
        trt=trt,
        messages=messages,
        builder=builder,
        definition=definition,
        parser=parser,
        producers={value: node.name for node in model.graph.node for value in node.output if node.name},
    )
    for tensor in network.inputs.values():
        if tensor.is_shape_tensor:
            raise ExportError(f"{name}: the input {tensor.name} sets shapes, expected them to follow from other shapes")
    return network


def element_of(data_type: Any) -> TensorElement:
    """Return the element type of a ``DataType`` of TensorRT; raise ExportError for one that no step's tensor has."""
    if data_type.name not in TENSORRT_ELEMENTS:
        raise ExportError(f"expected elements of {', '.join(TENSORRT_ELEMENTS.values())}, got {data_type.name}")
    return TENSORRT_ELEMENTS[data_type.name]
