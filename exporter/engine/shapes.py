"""Shapes of the tensors between steps for a batch and a canvas, and the device memory that they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Shape
from frcnn.exporter.engine.steps import Steps
from frcnn.plugins.kernel import ELEMENT_BYTES
from frcnn.plugins.operator_kernels import kernels_of_step, wiring_of
from frcnn.spec import Size
from frcnn.spec.engine import EngineStep, EngineTensor, MemoryNeeds, Profile

__all__ = [
    "_ALIGNMENT_BYTES",
    "ProfileShapes",
    "Trace",
    "initializer_bytes",
    "memory_needs",
    "shapes_of_profile",
    "trace",
]

_ALIGNMENT_BYTES: Final = 256
"""Alignment of tensors in device memory."""

ProfileShapes = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input of an engine -> its min, opt and max shape."""

_ELEMENT_BYTES: Final[Mapping[str, int]] = {**ELEMENT_BYTES, "bool": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The shapes of every tensor of one detection, and each operator's scratch memory by its node."""

    shapes: dict[str, Shape]
    scratch_bytes: dict[str, int]


def trace(steps: Steps, batch: int, canvas: Size) -> Trace:
    """Compute the shapes of a batch through all steps; raise ExportError or KernelError where a step refuses them."""
    shapes: dict[str, Shape] = {"images": (batch, 3, *canvas), "image_sizes": (batch, 2)}
    scratch: dict[str, int] = {}
    for step in steps.steps:
        if isinstance(step, EngineStep) and not steps.operators:
            # plugins compute shapes during the build only; those of the outputs are known except for the batch
            declared = {name: tuple(tensor.shape) for name, tensor in steps.networks[step.part].outputs.items()}
            shapes |= {name: (batch, *shape[1:]) for name, shape in declared.items()}
        elif isinstance(step, EngineStep):
            shapes |= steps.networks[step.part].output_shapes({name: shapes[name] for name in step.inputs})
        else:
            wiring = wiring_of(step.operator, kernels_of_step(step, steps.tensors))
            plan = wiring.plan([shapes[name] for name in step.inputs], {})
            shapes |= zip(step.outputs, plan.output_shapes, strict=True)
            scratch[step.node] = plan.scratch_bytes
    return Trace(shapes=shapes, scratch_bytes=scratch)


def shapes_of_profile(steps: Steps, profile: Profile) -> tuple[dict[str, ProfileShapes], Trace]:
    """Return the input shapes of every engine in a profile, by the engine's part, and the trace of the largest.

    Raises what :func:`trace` does, and ExportError if a dimension shrinks as the canvas grows.
    """
    batch, height, width = profile.batch, profile.height, profile.width
    minimum = trace(steps, batch.min, (height.min, width.min))
    opt = trace(steps, batch.opt, (height.opt, width.opt))
    maximum = trace(steps, batch.max, (height.max, width.max))
    found: dict[str, ProfileShapes] = {}
    for part, network in steps.networks.items():
        found[part] = {name: (minimum.shapes[name], opt.shapes[name], maximum.shapes[name]) for name in network.inputs}
        for name, (low, middle, high) in found[part].items():
            if not all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True)):
                raise ExportError(
                    f"{part}: expected {name} to grow with the canvas, got {low}, {middle}, {high}",
                    hint="choose one size, not a range: --size HEIGHTxWIDTH",
                )
    return found, maximum


def memory_needs(
    traces: Sequence[Trace], tensors: Mapping[str, EngineTensor], weights_bytes: Iterable[int]
) -> MemoryNeeds:
    """Return the device memory for the largest shapes of each profile, as far as it is known without a GPU."""

    def padded_bytes(name: str, found: Trace) -> int:
        size = math.prod(found.shapes[name]) * _ELEMENT_BYTES[tensors[name].element]
        return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    return MemoryNeeds(
        weights_bytes=sum(weights_bytes),
        tensors_bytes=max(sum(padded_bytes(name, found) for name in tensors) for found in traces),
        # operators run one after another and share the memory
        workspace_bytes=max(max(found.scratch_bytes.values(), default=0) for found in traces),
    )


def initializer_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a model's weights."""
    sizes = ((onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize, t.dims) for t in model.graph.initializer)
    return sum(itemsize * math.prod(dims) for itemsize, dims in sizes)
