"""An artifact for the fake device made of an exported model: its two networks in ONNX Runtime, its operators' kernels.

The networks run in the engines that an artifact of the target onnxruntime has, on the CPU provider: the fake device's
memory is host memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime

from frcnn.exporter.engine.steps import make_steps
from frcnn.exporter.graph.split import split
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.operator_kernels import kernels_of_step
from frcnn.plugins.preprocess import kernels_of_transform
from frcnn.runtime.engines.onnxruntime_engine import OnnxRuntimeContext, OnnxRuntimeEngine
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.runtime.gpu.device import LayerReport, Shape
from frcnn.runtime.gpu.program import ELEMENT_DTYPES
from frcnn.spec import TransformSpec
from frcnn.spec.engine import EngineManifest, EngineStep, EngineTensor, OperatorStep, Profile, kernel_part
from support.engine_files import NO_MEMORY, engine_manifest, listed_parts
from support.exports import Exported
from support.fake_device import FakeDevice, Work, code_of


class StagedArtifact:
    """The artifact of an export for the target onnxruntime."""

    def __init__(self, export: Exported, profiles: tuple[Profile, ...]) -> None:
        made = make_steps(split(onnx.load(export.path)), "onnxruntime")
        self.engine_parts = tuple(made.models)
        self._parts = {part: model.SerializeToString() for part, model in made.models.items()}
        self._parts |= kernel_parts(export.spec.transform, made.steps, made.tensors)
        self.manifest = engine_manifest(
            listed_parts(self._parts),
            target="onnxruntime",
            source=export.manifest,
            precision=export.manifest.precision,
            profiles=profiles,
            architectures=("sm_89",),
            tensors=made.tensors,
            steps=made.steps,
            memory=NO_MEMORY,
        )

    def backend(self, device: FakeDevice, *, workers: int = 2) -> EngineBackend:
        engines = {part: stream_engine(device, self._parts[part], self.manifest, part) for part in self.engine_parts}
        return EngineBackend(self.manifest, self._parts.__getitem__, device, engines, workers=workers)


def stream_engine(device: FakeDevice, model: bytes, manifest: EngineManifest, part: str) -> StreamEngine:
    """Return the engine of an ONNX model, on the CPU provider."""
    engine = OnnxRuntimeEngine(
        onnxruntime,
        model,
        provider="cpu",
        device=device,
        tensors=manifest.tensors,
        precision=manifest.precision,
        name=part,
    )
    return StreamEngine(device, engine)


class StreamEngine:
    """An engine on host memory whose work the fake device runs when a stream is waited for."""

    def __init__(self, device: FakeDevice, engine: OnnxRuntimeEngine) -> None:
        self.device = device
        self.engine = engine
        device.open_engines += 1

    def create_context(self) -> StreamContext:
        self.device.open_contexts += 1
        return StreamContext(self, self.engine.create_context())

    def close(self) -> None:
        self.engine.close()
        self.device.open_engines -= 1


class StreamContext:
    """A context of one."""

    def __init__(self, engine: StreamEngine, context: OnnxRuntimeContext) -> None:
        self._engine = engine
        self._device = engine.device
        self._context = context
        self._bytes: dict[str, int] = {}
        self.workspace_bytes = context.workspace_bytes

    def bind(self, profile: int, input_shapes: Mapping[str, Shape], stream: int) -> Mapping[str, Shape]:
        made = self._context.bind(profile, input_shapes, stream)
        tensors = self._engine.engine.tensors
        for name, shape in {**input_shapes, **made}.items():
            self._bytes[name] = math.prod(shape) * ELEMENT_DTYPES[tensors[name].element].itemsize
        return made

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        with self._device.calling("enqueue"):
            touches = tuple((pointers[name], size) for name, size in self._bytes.items())
            run = Work("network", lambda: self._context.enqueue(pointers, workspace, stream), touches)
            self._device.put(stream, run)

    def report_layers(self, report: LayerReport) -> None:
        self._context.report_layers(report)

    def is_capturable(self, stream: int) -> bool:
        return self._context.is_capturable(stream)

    def close(self) -> None:
        self._context.close()
        self._device.open_contexts -= 1


def kernel_parts(
    transform: TransformSpec, steps: Sequence[EngineStep | OperatorStep], tensors: Mapping[str, EngineTensor]
) -> dict[str, bytes]:
    """Return the fake device's code of every kernel, by part."""
    images: Any = tensors["images"].element
    kernels = list(kernels_of_transform(transform, images))
    for step in steps:
        kernels += kernels_of_step(step, tensors) if isinstance(step, OperatorStep) else ()
    return {kernel_part(k.entry, fingerprint(k), "sm_89"): code_of(k, "sm_89") for k in kernels}
