"""Parse an ONNX model into a strongly typed definition of TensorRT or TensorRT-RTX, whose types are its engine's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import onnx

from frcnn.errors import ExportError, FrcnnError
from frcnn.plugins.tensorrt import callback_error
from frcnn.plugins.tensorrt.callbacks import CHANNELS_LAST
from frcnn.spec.engine import EngineTensor

__all__ = ["Messages", "Network", "parse_network"]

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
    """A network definition of a step, and the objects that must live as long as it."""

    name: str
    trt: ModuleType
    messages: Messages
    builder: Any
    definition: Any
    parser: Any


def parse_network(
    trt: ModuleType, model: onnx.ModelProto, tensors: Mapping[str, EngineTensor], *, name: str
) -> Network:
    """Parse a model without custom operators, or with plugins for them, into a strongly typed network definition.

    ``tensors`` have the layouts of its inputs and outputs. Raises ExportError, with TensorRT's reason, if TensorRT
    cannot parse it.
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
    inputs = map(definition.get_input, range(definition.num_inputs))
    outputs = map(definition.get_output, range(definition.num_outputs))
    for tensor in (*inputs, *outputs):
        stated = tensors[tensor.name]
        if stated.layout == "channels_last":
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, CHANNELS_LAST[stated.element]))
    return Network(name=name, trt=trt, messages=messages, builder=builder, definition=definition, parser=parser)
