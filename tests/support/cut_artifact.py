"""An artifact for the fake device made of an exported model: cut at our operators, the pieces run by ONNX Runtime."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
import onnx

from frcnn.exporter.graph.cut import CutNode, Piece, cut
from frcnn.plugins import DOMAIN
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.operator_kernels import kernels_of
from frcnn.plugins.preprocess import kernels as preprocess_kernels
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.spec.engine import (
    ENGINE_SCHEMA_VERSION,
    INPUTS,
    EngineManifest,
    EngineStep,
    EngineTensor,
    MemoryNeeds,
    OperatorStep,
    Part,
    Profile,
    kernel_part,
)
from support.exports import Exported, bare_session
from support.fake_device import FakeDevice, code_of
from support.fake_engine import FakeEngine

__all__ = ["CutArtifact"]

_ELEMENTS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}


class CutArtifact:
    """The artifact of an export.

    Args:
        export: the model.
        profiles: shapes that it takes.
        channels_last: whether feature maps cross the cut channels-last, as TensorRT-RTX's engines give them.
    """

    def __init__(self, export: Exported, profiles: tuple[Profile, ...], *, channels_last: bool = False) -> None:
        items = cut(onnx.load(export.path), lambda node: node.domain == DOMAIN)
        self.pieces = {f"engines/{i}.plan": item for i, item in enumerate(items) if isinstance(item, Piece)}
        tensors: dict[str, EngineTensor] = {}
        for piece in self.pieces.values():
            for value in (*piece.model.graph.input, *piece.model.graph.output):
                tensors[value.name] = EngineTensor(element=_ELEMENTS[value.type.tensor_type.elem_type])
        steps: list[EngineStep | OperatorStep] = []
        for index, item in enumerate(items):
            if isinstance(item, CutNode):
                step = _operator_step(item.node)
                if channels_last and step.operator != "GroupedNMS":
                    for name in step.inputs[1:]:
                        tensors[name] = EngineTensor(element=tensors[name].element, layout="channels_last")
                steps.append(step)
            else:
                steps.append(EngineStep(part=f"engines/{index}.plan", inputs=item.inputs, outputs=item.outputs))
        for step in steps:
            if isinstance(step, OperatorStep):
                tensors.setdefault(step.output, EngineTensor(element=tensors[step.inputs[-1]].element))
        self._parts = {part: part.encode() for part in self.pieces}
        self._parts |= _kernel_parts(export, steps, tensors)
        self.manifest = EngineManifest(
            schema_version=ENGINE_SCHEMA_VERSION,
            source=export.manifest,
            source_onnx_sha256=hashlib.sha256(export.path.read_bytes()).hexdigest(),
            target="tensorrt-rtx",
            target_version="1.7.1",
            cuda_major=13,
            precision=export.manifest.precision,
            profiles=profiles,
            compute_capabilities=(),
            architectures=("sm_89",),
            tensors=tensors,
            steps=tuple(steps),
            parts={
                name: Part(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for name, data in self._parts.items()
            },
            memory=MemoryNeeds(weights_bytes=0, tensors_bytes=0, workspace_bytes=0),
            versions={},
        )

    def backend(self, device: FakeDevice) -> EngineBackend:
        """Return a backend that runs it."""
        engines = {part: self._engine(device, piece) for part, piece in self.pieces.items()}
        return EngineBackend(self.manifest, self._parts.__getitem__, device, engines)

    def _engine(self, device: FakeDevice, piece: Piece) -> FakeEngine:
        session = bare_session(piece.model.SerializeToString())

        def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(piece.outputs, session.run(list(piece.outputs), arrays), strict=True))

        @cache
        def shapes_of(input_shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, tuple[int, ...]]:
            types = {value.name: value.type for value in session.get_inputs()}
            zeros = {name: np.zeros(shape, _numpy(types[name])) for name, shape in input_shapes}
            return {name: array.shape for name, array in run(zeros).items()}

        return FakeEngine(
            device,
            inputs=piece.inputs,
            outputs=piece.outputs,
            tensors=self.manifest.tensors,
            run=run,
            shapes=lambda shapes: shapes_of(tuple(shapes.items())),
            profiles=len(self.manifest.profiles),
        )


def _numpy(text: str) -> Any:
    names = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    return (names | {"tensor(int32)": np.int32, "tensor(bool)": np.bool_})[text]


def _operator_step(node: onnx.NodeProto) -> OperatorStep:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return OperatorStep(
        node=node.name,
        operator=node.op_type,
        attributes={name: tuple(value) if isinstance(value, list) else value for name, value in values.items()},
        inputs=tuple(node.input),
        output=node.output[0],
    )


def _kernel_parts(
    export: Exported, steps: list[EngineStep | OperatorStep], tensors: dict[str, EngineTensor]
) -> dict[str, bytes]:
    transform = export.spec.transform
    assert set(INPUTS) <= set(tensors)
    images: Any = tensors["images"].element
    made = list(preprocess_kernels(element=images, image_mean=transform.image_mean, image_std=transform.image_std))
    for step in steps:
        if isinstance(step, OperatorStep):
            maps: Any = tensors[step.inputs[-1]]
            made += kernels_of(step.operator, step.attributes, element=maps.element, layout=maps.layout)
    return {kernel_part(k.entry, fingerprint(k), "sm_89"): code_of(k, "sm_89") for k in made}
