"""Shapes of the tensors between steps for a batch and a canvas, and the device memory that they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from frcnn.exporter.engine.shape_inference import Shape, output_shapes
from frcnn.exporter.engine.steps import Steps
from frcnn.plugins.kernel import ELEMENT_BYTES
from frcnn.plugins.operator_kernels import kernels_of_step, wiring_of
from frcnn.plugins.operator_plan import aligned
from frcnn.spec import Size
from frcnn.spec.engine import EngineStep, MemoryNeeds, Profile

ProfileShapes = Mapping[str, tuple[Shape, ...]]
"""Input of an engine -> its min, opt and max shape, as the engine knows it."""

_ELEMENT_BYTES: Final[Mapping[str, int]] = {**ELEMENT_BYTES, "bool": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The shapes of every tensor of one detection, and each operator's scratch memory by its node."""

    shapes: dict[str, Shape]
    scratch_bytes: dict[str, int]


ProfileTraces = tuple[Trace, Trace, Trace]
"""The traces of a profile's min, opt and max shapes."""


def trace(steps: Steps, batch: int, canvas: Size) -> Trace:
    """Compute the shapes of a batch through all steps.

    Raises ExportError for shapes that a network does not take or that depend on data, KernelError where kernels do not.
    """
    shapes: dict[str, Shape] = {"images": (batch, 3, *canvas), "image_sizes": (batch, 2)}
    scratch: dict[str, int] = {}
    for step in steps.steps:
        if isinstance(step, EngineStep):
            given = {name: steps.tensors[name].engine_shape(shapes[name]) for name in step.inputs}
            made = output_shapes(steps.models[step.part], given)
            shapes |= {name: steps.tensors[name].operator_shape(shape) for name, shape in made.items()}
        else:
            wiring = wiring_of(step.operator, kernels_of_step(step, steps.tensors))
            plan = wiring.plan([shapes[name] for name in step.inputs], {})
            shapes |= zip(step.outputs, plan.output_shapes, strict=True)
            scratch[step.node] = plan.scratch_bytes
    return Trace(shapes=shapes, scratch_bytes=scratch)


def trace_profile(steps: Steps, profile: Profile) -> ProfileTraces:
    """Trace the min, opt and max shapes of a profile; raises what :func:`trace` does."""
    batch, height, width = profile.batch, profile.height, profile.width
    return (
        trace(steps, batch.min, (height.min, width.min)),
        trace(steps, batch.opt, (height.opt, width.opt)),
        trace(steps, batch.max, (height.max, width.max)),
    )


def input_shapes(steps: Steps, step: EngineStep, traces: ProfileTraces) -> ProfileShapes:
    """Return the input shapes of an engine in a profile."""
    return {
        name: tuple(steps.tensors[name].engine_shape(found.shapes[name]) for found in traces) for name in step.inputs
    }


def memory_needs(steps: Steps, traces: Sequence[ProfileTraces], weights_bytes: Iterable[int]) -> MemoryNeeds:
    """Return the device memory for the largest shapes of each profile, as far as it is known without a GPU."""
    largest = [maximum for _, _, maximum in traces]

    def padded_bytes(name: str, found: Trace) -> int:
        return aligned(math.prod(found.shapes[name]) * _ELEMENT_BYTES[steps.tensors[name].element])

    scratch = (found.scratch_bytes[step.node] for found in largest for step in steps.operators)
    return MemoryNeeds(
        weights_bytes=sum(weights_bytes),
        tensors_bytes=max(sum(padded_bytes(name, found) for name in steps.tensors) for found in largest),
        workspace_bytes=max(scratch, default=0),  # operators run one after another and share the memory
    )


def initializer_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a model's weights."""
    sizes = ((onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize, t.dims) for t in model.graph.initializer)
    return sum(itemsize * math.prod(dims) for itemsize, dims in sizes)
