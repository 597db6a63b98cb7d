"""What a CUDA kernel is: the one statement that compiling, launching, TensorRT and the tests all read.

A :class:`Kernel` has everything fixed that a compiled one fixes: attributes, element type, layout. Its arguments are,
in this order, the inputs' pointers, the integers (int32), the outputs' pointers: the order of TensorRT's ahead-of-time
plugins. An operator that needs two launches has two kernels, wired by the names of their tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from frcnn.errors import KernelError
from frcnn.plugins.expressions import INTEGERS, evaluate
from frcnn.plugins.operator import Tensor

__all__ = ["ELEMENT_BYTES", "KERNEL_FOLDER", "Constant", "Element", "Kernel", "Launch", "Layout", "check_choice"]

Element = Literal["float32", "float16", "bfloat16"]
"""Element type of feature maps, pooled features and network inputs."""

Layout = Literal["planar", "channels_last"]
"""How (N, C, H, W) lies in memory: as written, or as (N, H, W, C)."""

Constant = int | float | tuple[float, ...]

KERNEL_FOLDER: Final = Path(__file__).parent
"""Where ``source`` and the ``.cuh`` headers lie."""

ELEMENT_BYTES: Final[Mapping[str, int]] = {"float32": 4, "int32": 4, "int64": 8, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A kernel bound to shapes.

    Attributes:
        grid: blocks in x, y, z; a 0 among them means that there is nothing to do.
        block: threads in x, y, z.
        integers: the int32 arguments.
        output_shapes: shape of each output.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    integers: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A CUDA kernel with its constants fixed.

    Attributes:
        entry: the name of the ``extern "C"`` function.
        plugin: the name of its TensorRT plugin; it carries what a plugin's signature fixes.
        source: file under :data:`KERNEL_FOLDER`.
        constants: macros that the source is compiled with; floats are rounded to float32.
        inputs: pointers that it reads, with their shapes in letters.
        integers: expressions over the letters, passed as int32 between inputs and outputs.
        outputs: pointers that it writes, with their shapes as expressions over the letters.
        grid: blocks in x, y, z as expressions over the letters.
        block: threads in x, y, z.
        layouts: tensor name -> layout, for the tensors that are not planar.
        at_most: letter -> the most that the kernel can hold.
        multiple_of: letter -> what it must be a multiple of.
    """

    entry: str
    plugin: str
    source: str
    constants: Mapping[str, Constant]
    inputs: tuple[Tensor, ...]
    integers: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    grid: tuple[str, str, str]
    block: tuple[int, int, int]
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    multiple_of: Mapping[str, int] = field(default_factory=dict)

    def macros(self) -> dict[str, str]:
        """Return the constants as the text of C++ macros."""
        return {name: _literal(value) for name, value in self.constants.items()}

    def sizes(self, input_shapes: Sequence[Sequence[int]]) -> dict[str, int]:
        """Read the value of every letter off the inputs' shapes.

        Args:
            input_shapes: one per input.

        Raises:
            KernelError: a shape of another rank, a letter with two values, or one beyond what the kernel can hold.
        """
        if len(input_shapes) != len(self.inputs):
            raise KernelError(f"{self.entry} takes {len(self.inputs)} inputs, got {len(input_shapes)}")
        sizes: dict[str, int] = {}
        for tensor, shape in zip(self.inputs, input_shapes, strict=True):
            if len(shape) != len(tensor.shape):
                raise KernelError(
                    f"{self.entry}: {tensor.name} must have the shape ({', '.join(tensor.shape)}), got {tuple(shape)}"
                )
            for letter, size in zip(tensor.shape, shape, strict=True):
                expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, int(size))
                if size != expected:
                    raise KernelError(
                        f"{self.entry}: {letter} of {tensor.name} must be {expected}, got {size} in {tuple(shape)}"
                    )
        self._check(sizes)
        return sizes

    def bind(self, sizes: Mapping[str, int]) -> Launch:
        """Return the launch for the values of the letters, as :meth:`sizes` gives them.

        Raises:
            KernelError: a letter is beyond what the kernel can hold.
        """
        self._check(sizes)

        def value(expression: str) -> int:
            return evaluate(expression, sizes, INTEGERS)

        grid = (value(self.grid[0]), value(self.grid[1]), value(self.grid[2]))
        integers = tuple(value(text) for text in self.integers)
        for size, limit, what in zip(grid, _MAX_BLOCKS, ("x", "y", "z"), strict=True):
            if size > limit:
                raise KernelError(f"{self.entry} would need {size} blocks in {what}, CUDA holds {limit}")
        for text, number in zip(self.integers, integers, strict=True):
            if number > _INT32_MAX:
                raise KernelError(f"{self.entry}: {text} is {number}, the kernel takes at most {_INT32_MAX}")
        shapes = tuple(tuple(value(text) for text in tensor.shape) for tensor in self.outputs)
        return Launch(grid=grid, block=self.block, integers=integers, output_shapes=shapes)

    def _check(self, sizes: Mapping[str, int]) -> None:
        for letter, maximum in self.at_most.items():
            if sizes[letter] > maximum:
                raise KernelError(f"{self.entry} holds at most {letter} = {maximum}, got {sizes[letter]}")
        for letter, step in self.multiple_of.items():
            if sizes[letter] % step:
                raise KernelError(
                    f"{self.entry} takes channels-last maps of a multiple of {step} channels, got {letter} = "
                    f"{sizes[letter]}",
                    hint="use the planar layout for this number of channels",
                )


_MAX_BLOCKS: Final = (2**31 - 1, 65535, 65535)
_INT32_MAX: Final = 2**31 - 1


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        KernelError: it lists them.
    """
    if value not in choices:
        raise KernelError(f"{what} must be one of {', '.join(choices)}, got {value!r}")


def _literal(value: Constant) -> str:
    if isinstance(value, tuple):
        return ",".join(_literal(item) for item in value)
    if isinstance(value, float):
        (rounded,) = struct.unpack("<f", struct.pack("<f", value))
        return f"{rounded.hex()}f"
    return str(value)
