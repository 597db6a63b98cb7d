"""Parsing: what a user is told where TensorRT makes no builder or takes no model."""

from __future__ import annotations

import gc
import importlib
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import parser
from support.fake_tensorrt import ILogger, Severity

from frcnn.errors import ExportError, KernelError
from frcnn.exporter.engine import network
from frcnn.exporter.engine.network import Messages, parse_network

UNKNOWN = """<ir_version: 10, opset_import: ["" : 19, "other" : 1]>
    unknown (float[1, 4] x) => (float[1, 4] y) { y = other.GroupedNMS (x) }"""
SLOW_PARTS = """<ir_version: 10, opset_import: ["" : 19]>
    unknown (float[4, 4] x) => (float y) { y = Det (x) }"""
INITIALIZATION = "CUDA initialization failure with error: 35"


class Held:
    """A runtime; one that holds nothing must not be freed."""

    def __init__(self, system: System) -> None:
        self.system = system

    def __del__(self) -> None:
        self.system.freed += 1


class System:
    """TensorRT where CUDA does not work, as recorded without a driver."""

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    ILogger = ILogger

    def __init__(self, *, runtime: list[str], builder: Any = None) -> None:
        self.lines, self.builder, self.asked, self.freed = runtime, builder, 0, 0

    def Runtime(self, logger: Any) -> object:
        for line in self.lines:
            logger.log(Severity.ERROR, line)
        return Held(self)

    def Builder(self, logger: Any) -> Any:
        self.asked += 1
        if isinstance(self.builder, Exception):
            logger.log(Severity.ERROR, f"createInferBuilder: Error Code 6: API Usage Error ({INITIALIZATION})")
            raise TypeError(*self.builder.args)
        return self.builder


def failure(trt: Any, text: str = UNKNOWN) -> ExportError:
    with pytest.raises(ExportError) as caught:
        parse_network(trt, parser.parse_model(text), {}, name="engines/features.plan")
    error = caught.value.with_traceback(None)  # whose frames hold what was made
    error.__cause__ = error.__context__ = None
    return error


def test_a_builder_is_not_asked_for_where_a_runtime_cannot_be_made() -> None:
    """Releases 10 end the process then."""
    # 10.6.0 without a driver
    trt = System(runtime=[f"createInferRuntime: Error Code 6: API Usage Error ({INITIALIZATION})"])
    error = failure(trt)
    gc.collect()
    assert (trt.asked, trt.freed) == (0, 0)
    assert error.message == (f"TensorRT cannot use this system: createInferRuntime: API Usage Error ({INITIALIZATION})")
    assert error.hint.startswith("there is no NVIDIA driver, or it is older than the CUDA of this TensorRT")


def test_a_builder_that_is_not_made_is_explained() -> None:
    # 11.2.1 without a driver
    trt = System(runtime=[], builder=TypeError("pybind11::init(): factory function returned nullptr"))
    raised = failure(trt)
    gc.collect()
    assert trt.freed == 1
    assert raised.message == (f"TensorRT cannot make a builder: createInferBuilder: API Usage Error ({INITIALIZATION})")
    assert raised.hint.startswith("there is no NVIDIA driver")
    nothing = failure(System(runtime=[]))
    assert nothing.message == "TensorRT cannot make a builder: TensorRT gives no reason"
    assert nothing.hint == "--debug shows all messages of TensorRT after the traceback"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            UNKNOWN,
            "node '' (GroupedNMS): INVALID_NODE, creator && \"Plugin not found, are the plugin name, version, and "
            'namespace correct?"',
        ),
        (SLOW_PARTS, "node '' (Det): UNSUPPORTED_NODE, false"),
    ],
)
def test_an_operator_that_the_parser_does_not_know_is_named(text: str, reason: str) -> None:
    error = failure(importlib.import_module("tensorrt_rtx"), text)
    assert error.message == f"TensorRT cannot take engines/features.plan: {reason}"
    assert error.hint == (
        "TensorRT's parser does not know this operator: a newer TensorRT may, and --target onnxruntime needs no parser"
    )
    assert any("While parsing node number 0" in note for note in error.__notes__)


def test_the_error_of_a_plugin_comes_before_those_of_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "callback_error", lambda: KernelError("BoxDetections: too many"))
    messages = Messages(has_plugins=True)
    messages.lines.keep("ERROR", "Error Code 9: Internal Error (plugin failed)")
    assert messages.failure("TensorRT cannot build x").message == "BoxDetections: too many"
    messages.has_plugins = False
    assert messages.failure("TensorRT cannot build x").message == (
        "TensorRT cannot build x: Internal Error (plugin failed)"
    )
