"""The wiring of an operator's kernels: the tensors they share by name, and launches and scratch memory for shapes.

A tensor that one kernel writes and another reads lies in scratch memory, which the caller allocates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from frcnn.errors import KernelError
from frcnn.plugins.kernel import ELEMENT_BYTES, Kernel, Launch
from frcnn.plugins.operator import Tensor

Shape = tuple[int, ...]

ALIGNMENT_BYTES: Final = 256
"""Every tensor in device memory begins at a multiple of this, which TensorRT and our kernels need."""


def aligned(size_bytes: int) -> int:
    """Return a size rounded up to a multiple of the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorPlan:
    """An operator bound to shapes: a launch per kernel, and scratch memory with the offset of each scratch tensor."""

    launches: tuple[Launch, ...]
    output_shapes: tuple[Shape, ...]
    offsets: Mapping[str, int]
    scratch_bytes: int


class OperatorWiring:
    """The kernels of an operator in order, wired by the names of their tensors, with its inputs and outputs.

    ``inputs`` gives the order of the operator's inputs by name; without it, it is that in which the kernels read them.
    A tensor that a kernel writes and another reads is scratch, so no output is read again. ``free`` are the letters of
    the first output's shape that no input has, like a canvas's height -> their dimension.
    """

    def __init__(self, kernels: Sequence[Kernel], inputs: Sequence[str] | None = None) -> None:
        self.kernels = tuple(kernels)
        taken = {tensor.name: tensor for kernel in kernels for tensor in kernel.inputs}
        made = {tensor.name: tensor for kernel in kernels for tensor in kernel.outputs}
        names = [name for name in taken if name not in made] if inputs is None else inputs
        self.inputs: tuple[Tensor, ...] = tuple(taken[name] for name in names)
        self.outputs: tuple[Tensor, ...] = tuple(tensor for tensor in made.values() if tensor.name not in taken)
        self._scratch = tuple(tensor for tensor in made.values() if tensor.name in taken)
        self.layouts = {name: layout for kernel in kernels for name, layout in kernel.layouts.items()}
        known = {letter for tensor in taken.values() for letter in tensor.shape}
        first = self.outputs[0].shape
        self.free = {text: i for i, text in enumerate(first) if text.isidentifier() and text not in known}

    def plan(self, input_shapes: Sequence[Sequence[int]], sizes: Mapping[str, int]) -> OperatorPlan:
        """Bind the operator to the shapes of its inputs and the values of its free letters, or raise KernelError."""
        if len(input_shapes) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise KernelError(f"expected the inputs {names}, got {len(input_shapes)}")
        shapes = {tensor.name: tuple(shape) for tensor, shape in zip(self.inputs, input_shapes, strict=True)}
        launches = []
        for kernel in self.kernels:
            letters = kernel.sizes([shapes[tensor.name] for tensor in kernel.inputs])
            launch = kernel.bind(letters | dict(sizes))
            launches.append(launch)
            shapes |= dict(zip((t.name for t in kernel.outputs), launch.output_shapes, strict=True))
        offsets, end = {}, 0
        for tensor in self._scratch:
            offsets[tensor.name] = aligned(end)
            end = offsets[tensor.name] + math.prod(shapes[tensor.name]) * ELEMENT_BYTES[tensor.element]
        return OperatorPlan(
            launches=tuple(launches),
            output_shapes=tuple(shapes[tensor.name] for tensor in self.outputs),
            offsets=offsets,
            scratch_bytes=end,
        )

    def pointers(
        self, plan: OperatorPlan, inputs: Sequence[int], outputs: Sequence[int], scratch: int
    ) -> tuple[tuple[int, ...], ...]:
        """Return the addresses that each kernel is launched with: its inputs', then its outputs'.

        ``inputs``, ``outputs`` and ``scratch`` are addresses; ``scratch`` is unused where ``plan.scratch_bytes`` is 0.
        """
        at = {tensor.name: pointer for tensor, pointer in zip(self.inputs, inputs, strict=True)}
        at |= {tensor.name: pointer for tensor, pointer in zip(self.outputs, outputs, strict=True)}
        at |= {name: scratch + offset if plan.scratch_bytes else 0 for name, offset in plan.offsets.items()}
        return tuple(tuple(at[tensor.name] for tensor in (*k.inputs, *k.outputs)) for k in self.kernels)
