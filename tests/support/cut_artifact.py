"""An artifact for the fake device made of an exported model: cut at our operators, the pieces run by ONNX Runtime."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx

from frcnn.exporter.engine.steps import _operator_step as operator_step
from frcnn.exporter.engine.steps import kernels_of_step
from frcnn.exporter.graph.cut import CutNode, Piece, cut
from frcnn.plugins import DOMAIN
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.preprocess import kernels as preprocess_kernels
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.spec.engine import INPUTS, EngineStep, EngineTensor, OperatorStep, Profile, kernel_part
from support.engine_files import NO_MEMORY, engine_manifest, listed_parts
from support.exports import Exported, bare_session
from support.fake_device import FakeDevice, code_of
from support.fake_engine import FakeEngine

_ELEMENTS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}


class CutArtifact:
    """The artifact of an export, with feature maps channels-last if asked, as TensorRT-RTX's engines give them."""

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
                step = operator_step(item.node)
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
        self.manifest = engine_manifest(
            listed_parts(self._parts),
            source=export.manifest,
            precision=export.manifest.precision,
            profiles=profiles,
            architectures=("sm_89",),
            tensors=tensors,
            steps=tuple(steps),
            memory=NO_MEMORY,
        )

    def backend(self, device: FakeDevice) -> EngineBackend:
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


def _kernel_parts(
    export: Exported, steps: list[EngineStep | OperatorStep], tensors: dict[str, EngineTensor]
) -> dict[str, bytes]:
    transform = export.spec.transform
    assert set(INPUTS) <= set(tensors)
    images: Any = tensors["images"].element
    made = list(preprocess_kernels(element=images, image_mean=transform.image_mean, image_std=transform.image_std))
    for step in steps:
        if isinstance(step, OperatorStep):
            made += kernels_of_step(step, tensors)
    return {kernel_part(k.entry, fingerprint(k), "sm_89"): code_of(k, "sm_89") for k in made}
