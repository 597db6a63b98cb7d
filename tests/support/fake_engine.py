"""Engines for the fake device: Python functions, or models that ONNX Runtime runs."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from frcnn.errors import ArtifactError
from frcnn.runtime.gpu.device import LayerReport
from frcnn.runtime.gpu.program import ELEMENT_DTYPES
from frcnn.spec.engine import EngineTensor
from support.fake_device import FakeDevice, Work

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class FakeEngine:
    def __init__(
        self,
        device: FakeDevice,
        *,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        tensors: Mapping[str, EngineTensor],
        run: Callable[[Arrays], Arrays],
        shapes: Callable[[Shapes], Shapes],
        profiles: int = 1,
        capturable: bool = True,
        workspace_bytes: int = 1000,
        name: str = "engine",
        layers: tuple[tuple[str, float], ...] = (),
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self.tensors = tensors
        self.run = run
        self.shapes = shapes
        self.profiles = profiles
        self.capturable = capturable
        self.workspace_bytes = workspace_bytes
        self.name = name
        self.layers = layers
        self.contexts = 0
        device.open_engines += 1

    def create_context(self) -> FakeContext:
        with self.device.calling("create_context"):
            self.contexts += 1
            self.device.open_contexts += 1
            return FakeContext(self)

    def close(self) -> None:
        with self.device.calling("engine close", needs_context=False):
            if self.contexts:
                raise self.device.misused("an engine closed before its contexts")
            self.device.open_engines -= 1


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._device = engine.device
        self._shapes: Shapes = {}
        self._is_warm = False
        self._report: LayerReport | None = None

    def bind(self, profile: int, input_shapes: Mapping[str, tuple[int, ...]], stream: int) -> Shapes:
        with self._device.calling("bind"):
            if self._shapes or set(input_shapes) != set(self._engine.inputs):
                raise self._device.misused("a context bound twice, or to other inputs than the engine's")
            if not 0 <= profile < self._engine.profiles:
                raise ArtifactError(f"no profile {profile}")
            made = self._engine.shapes(dict(input_shapes))
            self._shapes = {**input_shapes, **made}
            return made

    @property
    def workspace_bytes(self) -> int:
        return self._engine.workspace_bytes

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        with self._device.calling("enqueue"):
            if set(pointers) != set(self._shapes):
                raise self._device.misused("an engine run with other tensors than its own")
            if self._device.is_capturing(stream) and not self._is_warm:
                raise self._device.misused("an engine captured before it ran")
            if workspace % 256 or any(pointer % 256 for pointer in pointers.values()):
                raise self._device.misused("an engine's memory does not begin at a multiple of 256 bytes")
            self._is_warm = True
            at = dict(pointers)
            places = [(at[name], self._bytes(name)) for name in at]
            name = self._engine.name if self._report is None else f"{self._engine.name}, reported"
            work = Work(name, lambda: self._run(at, workspace), (*places, (workspace, self.workspace_bytes)))
            self._device.put(stream, work)
            if self._report is not None:  # as TensorRT does: it waits, and then reports
                if self._device.is_capturing(stream):
                    raise self._device.misused("an engine captured that reports its layers")
                self._device.run_all(stream)
                for layer, ms in self._engine.layers:
                    self._report(layer, ms)

    def report_layers(self, report: LayerReport) -> None:
        with self._device.calling("report_layers"):
            self._report = report

    def is_capturable(self, stream: int) -> bool:
        with self._device.calling("is_capturable"):
            return self._engine.capturable

    def close(self) -> None:
        self._engine.contexts -= 1  # gone also where it complains: its engine may be closed then
        self._device.open_contexts -= 1
        with self._device.calling("context close", needs_context=False):
            pass

    def _bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * self._dtype(name).itemsize

    def _dtype(self, name: str) -> np.dtype[Any]:
        return ELEMENT_DTYPES[self._engine.tensors[name].element]

    def _view(self, pointer: int, name: str) -> np.ndarray:
        """Return the tensor at an address, by its logical shape whatever its layout."""
        shape, last = self._shapes[name], self._engine.tensors[name].layout == "channels_last"
        lying = (shape[0], *shape[2:], shape[1]) if last else shape
        memory = (ctypes.c_char * self._bytes(name)).from_address(pointer)
        array = np.frombuffer(memory, self._dtype(name)).reshape(lying)
        return np.moveaxis(array, -1, 1) if last else array

    def _run(self, at: Mapping[str, int], workspace: int) -> None:
        ctypes.memset(workspace, 0xEE, self.workspace_bytes)
        for name in self._engine.outputs:
            ctypes.memset(at[name], 0xEE, self._bytes(name))
        inputs = {name: self._view(at[name], name).copy() for name in self._engine.inputs}
        made = self._engine.run(inputs)
        for name in self._engine.outputs:
            assert made[name].shape == self._shapes[name], (name, made[name].shape, self._shapes[name])
            assert made[name].dtype == self._dtype(name), (name, made[name].dtype)
            self._view(at[name], name)[...] = made[name]
