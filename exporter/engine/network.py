"""Parse an ONNX model into a strongly typed definition of TensorRT or TensorRT-RTX, whose types are its engine's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import onnx

from frcnn.errors import ExportError, FrcnnError
from frcnn.plugins.tensorrt import callback_error
from frcnn.plugins.tensorrt.callbacks import CHANNELS_LAST
from frcnn.plugins.tensorrt.library import never_free
from frcnn.plugins.tensorrt.messages import LoggedLines, explain, make_logger, plain
from frcnn.spec.engine import EngineTensor

_CREATION_FLAGS: Final = ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS")  # of the flags that the module has
_WEIGHTS: Final = re.compile(r"Total Weights Memory: (\d+) bytes")
_CACHE_LOST: Final = "Failed to deserialize timing cache"


@dataclass(slots=True)
class Messages:
    """Log messages of TensorRT, which are not printed.

    ``weights_bytes`` are those of the engine built last, if reported. ``is_cache_lost``: TensorRT could not read a
    timing cache, warned, and went on with an empty one.
    """

    has_plugins: bool = False
    lines: LoggedLines = field(default_factory=LoggedLines)
    weights_bytes: int | None = None
    is_cache_lost: bool = False

    def logger(self, trt: ModuleType) -> Any:
        """Return an ``ILogger`` that records messages here."""
        return make_logger(trt, self._keep)

    def failure(self, what: str) -> FrcnnError:
        """Return the error of a failed step: that of a plugin, or TensorRT's own."""
        plugin = callback_error() if self.has_plugins else None
        if plugin is not None:
            return plugin
        found = explain(self.lines.errors, self.lines.warnings)
        error = ExportError(
            f"{what}: {found.reason}", hint=found.hint or "--debug shows all messages of TensorRT after the traceback"
        )
        for line in (*self.lines.warnings, *self.lines.errors):
            error.add_note(plain(line))
        return error

    def parser_failure(self, what: str, parser: Any) -> FrcnnError:
        """Return the error of a parser that does not take a model: the nodes that it names come last."""
        for error in map(parser.get_error, range(parser.num_errors)):
            node = f"node {error.node_name()!r} ({error.node_operator()})"
            self.lines.keep("ERROR", f"{node}: {error.code().name}, {error.desc()}")
        return self.failure(what)

    def _keep(self, severity: str, message: str) -> None:
        self.lines.keep(severity, message)
        if _CACHE_LOST in message:
            self.is_cache_lost = True
        elif found := _WEIGHTS.search(message):
            self.weights_bytes = int(found[1])


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
    network = parse_model(trt, model, name=name, flags=_CREATION_FLAGS)
    definition = network.definition
    inputs = map(definition.get_input, range(definition.num_inputs))
    outputs = map(definition.get_output, range(definition.num_outputs))
    for tensor in (*inputs, *outputs):
        stated = tensors[tensor.name]
        if stated.layout == "channels_last":
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, CHANNELS_LAST[stated.element]))
    return network


def parse_model(trt: ModuleType, model: onnx.ModelProto, *, name: str, flags: Sequence[str]) -> Network:
    """Parse a model into a network definition with those of the creation flags that the module has."""
    known = trt.NetworkDefinitionCreationFlag
    given = [getattr(known, flag) for flag in flags if hasattr(known, flag)]
    messages = Messages(has_plugins=hasattr(known, "PREFER_AOT_PYTHON_PLUGINS"))
    logger = messages.logger(trt)
    builder = _make_builder(trt, logger, messages)
    definition = builder.create_network(sum(1 << int(flag) for flag in given))
    parser = _made(lambda: trt.OnnxParser(definition, logger), messages, "a parser")
    if not parser.parse(model.SerializeToString()):
        raise messages.parser_failure(f"TensorRT cannot take {name}", parser)
    return Network(name=name, trt=trt, messages=messages, builder=builder, definition=definition, parser=parser)


def _make_builder(trt: ModuleType, logger: Any, messages: Messages) -> Any:
    """Return a builder with a logger of ``messages``, or raise ExportError where CUDA does not work.

    Releases 10 of TensorRT end the process there, while a runtime is made and the reason logged; so that is asked
    first. TensorRT-RTX builds without CUDA.
    """
    if not hasattr(trt, "ComputeCapability"):
        runtime = _made(lambda: trt.Runtime(logger), messages, "a runtime")
        if messages.lines.errors:
            never_free(runtime)
            raise messages.failure("TensorRT cannot use this system")
    return _made(lambda: trt.Builder(logger), messages, "a builder")


def _made(make: Callable[[], Any], messages: Messages, what: str) -> Any:
    """Return an object of TensorRT, whose bindings raise TypeError where there is none; raise ExportError then."""
    try:
        made = make()
    except (TypeError, RuntimeError) as error:
        raise messages.failure(f"TensorRT cannot make {what}") from error
    if made is None:
        raise messages.failure(f"TensorRT cannot make {what}")
    return made
