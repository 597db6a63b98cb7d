"""Which shapes flow between steps for a batch on a canvas, and so the shapes that each engine is built for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from frcnn.errors import ExportError
from frcnn.exporter.engine.network import Shape
from frcnn.exporter.engine.steps import Steps, kernels_of_step
from frcnn.plugins.operator_plan import OperatorWiring
from frcnn.spec import Size
from frcnn.spec.engine import EngineStep, Profile

__all__ = ["ALIGNMENT_BYTES", "ProfileShapes", "Trace", "padded_bytes", "shapes_of_profile", "trace"]

ALIGNMENT_BYTES = 256
"""Where a tensor may begin in device memory."""

ProfileShapes = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input of an engine -> its min, opt and max shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The shapes of one detection.

    Attributes:
        shapes: of every tensor that a step reads or writes.
        scratch_bytes: what each operator step's kernels need between their launches, by node.
    """

    shapes: dict[str, Shape]
    scratch_bytes: dict[str, int]


def trace(steps: Steps, batch: int, canvas: Size) -> Trace:
    """Follow the shapes of a batch of images on a canvas through the steps.

    Raises:
        ExportError: an engine does not take what comes to it.
        KernelError: a kernel cannot hold it.
    """
    shapes: dict[str, Shape] = {"images": (batch, 3, *canvas), "image_sizes": (batch, 2)}
    scratch: dict[str, int] = {}
    for step in steps.steps:
        if isinstance(step, EngineStep) and not steps.operators:
            # plugins answer for shapes when the engine is built; the outputs' are known but for the batch
            declared = {name: tuple(tensor.shape) for name, tensor in steps.networks[step.part].outputs.items()}
            shapes |= {name: (batch, *shape[1:]) for name, shape in declared.items()}
        elif isinstance(step, EngineStep):
            shapes |= steps.networks[step.part].output_shapes({name: shapes[name] for name in step.inputs})
        else:
            wiring = OperatorWiring(kernels_of_step(step, steps.tensors))
            plan = wiring.plan([shapes[name] for name in step.inputs], {})
            shapes[step.output], scratch[step.node] = plan.output_shape, plan.scratch_bytes
    return Trace(shapes=shapes, scratch_bytes=scratch)


def shapes_of_profile(steps: Steps, profile: Profile) -> tuple[dict[str, ProfileShapes], Trace]:
    """Return the shapes of every engine's inputs in a profile, by the engine's part, and the trace of the largest.

    Raises:
        ExportError: see :func:`trace`; or a size falls where the canvas grows.
        KernelError: see :func:`trace`.
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


def padded_bytes(shape: Shape, element_bytes: int) -> int:
    """Return the device memory that a tensor takes, up to where the next may begin."""
    size = math.prod(shape) * element_bytes
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
