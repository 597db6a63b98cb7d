"""ONNX Runtime with a CUDA provider that is the CPU's: host memory for device memory, and a record of what is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnxruntime

CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Node:
    op_type: str
    name: str
    domain: str = ""


@dataclass(frozen=True)
class Subgraph:
    ep_name: str
    nodes: tuple[Node, ...]

    def get_nodes(self) -> tuple[Node, ...]:
        return self.nodes


class FakeOnnxRuntime:
    """Stands for the package; ``on_cpu`` are the operators that its CUDA provider does not take.

    ``sessions`` holds the provider's options of every session, ``runs`` the run options' entries and the bound
    addresses of every run.
    """

    OrtValue = onnxruntime.OrtValue
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, *, version: str = "1.31.1", on_cpu: tuple[str, ...] = (), starts: bool = True) -> None:
        self.__version__ = version
        self.on_cpu = on_cpu
        self.starts = starts
        self.sessions: list[dict[str, str]] = []
        self.runs: list[tuple[dict[str, str], dict[str, int]]] = []
        self.fails: Callable[[], bool] = lambda: False

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def RunOptions(self) -> _RunOptions:
        return _RunOptions()

    def InferenceSession(
        self, data: bytes, options: Any, *, providers: list[tuple[str, dict[str, str]]], enable_fallback: int
    ) -> _Session:
        ((name, provider_options),) = providers
        assert (name, enable_fallback) == (CUDA, 0)
        self.sessions.append(provider_options)
        raw = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return _Session(self, raw)


class _RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.real = onnxruntime.RunOptions()

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class _Session:
    def __init__(self, package: FakeOnnxRuntime, raw: Any) -> None:
        self._package = package
        self._raw = raw
        self.get_inputs, self.get_outputs = raw.get_inputs, raw.get_outputs

    def get_providers(self) -> list[str]:
        return [*([CUDA] if self._package.starts else []), "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Subgraph]:
        nodes = [node for subgraph in self._raw.get_provider_graph_assignment_info() for node in subgraph.get_nodes()]
        return [
            Subgraph("CPUExecutionProvider" if node.op_type in self._package.on_cpu else CUDA, (node,))
            for node in nodes
        ]

    def io_binding(self) -> _Binding:
        return _Binding(self._raw.io_binding())

    def run_with_iobinding(self, binding: _Binding, options: _RunOptions) -> None:
        self._package.runs.append((options.entries, dict(binding.addresses)))
        if self._package.fails():
            raise RuntimeError("CUDA failure 900:\n operation not permitted when stream is capturing")
        self._raw.run_with_iobinding(binding.raw, options.real)


class _Binding:
    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.addresses: dict[str, int] = {}
        self.bind_ortvalue_input, self.get_outputs = raw.bind_ortvalue_input, raw.get_outputs

    def bind_input(self, name: str, device: str, device_id: int, element: int, shape: Any, pointer: int) -> None:
        assert (device, device_id) == ("cuda", 1)
        self.addresses[name] = pointer
        self.raw.bind_input(name, "cpu", 0, element, shape, pointer)

    def bind_output(self, name: str, device: str, device_id: int, *more: Any) -> None:
        assert (device, device_id) == ("cuda", 1)
        if more:
            self.addresses[name] = more[-1]
        self.raw.bind_output(name, "cpu", 0, *more)
