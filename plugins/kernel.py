"""The description of a CUDA kernel that compiling, launching, TensorRT and the tests read.

A :class:`Kernel` has fixed attributes, element type and layout. Its arguments are the inputs' pointers, the integers
(int32) and the outputs' pointers, in the order of TensorRT's ahead-of-time plugins. An operator of several
launches has as many kernels, wired by the names of their tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from frcnn.errors import KernelError
from frcnn.plugins.expressions import INTEGERS, evaluate, names_in
from frcnn.plugins.operator import Tensor

Element = Literal["float32", "float16", "bfloat16"]
"""Element type of feature maps, pooled features and network inputs."""

Layout = Literal["planar", "channels_last"]
"""How (N, C, H, W) lies in memory: as written, or as (N, H, W, C)."""

Constant = int | float | tuple[float, ...]

KERNEL_FOLDER: Final = Path(__file__).parent
"""Folder of the sources and the ``.cuh`` headers."""

ELEMENT_BYTES: Final[Mapping[str, int]] = {"float32": 4, "int32": 4, "int64": 8, "float16": 2, "bfloat16": 2}

ELEMENT_NUMBERS: Final[Mapping[Element, int]] = {"float32": 0, "float16": 1, "bfloat16": 2}
"""Value of the macro ``ELEMENT``, see ``cuda/element.cuh``."""

_MAX_BLOCKS: Final = (2**31 - 1, 65535, 65535)
_INT32_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A kernel bound to shapes: blocks and threads in x, y, z, int32 arguments; a grid with a 0 does nothing."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    integers: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A CUDA kernel with its constants fixed.

    The inputs' shapes are in letters; those of the outputs, the integers and the grid are expressions over these.
    """

    entry: str  # name of the extern "C" function
    plugin: str  # name of its TensorRT plugin
    source: str  # file under KERNEL_FOLDER
    constants: Mapping[str, Constant]  # macros; floats are rounded to float32
    inputs: tuple[Tensor, ...]  # pointers that it reads
    integers: tuple[str, ...]  # passed as int32 between inputs and outputs
    outputs: tuple[Tensor, ...]  # pointers that it writes
    grid: tuple[str, str, str]  # blocks in x, y, z
    block: tuple[int, int, int]  # threads in x, y, z
    layouts: Mapping[str, Layout] = field(default_factory=dict)  # of the tensors that are not planar, by name
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # letter -> minimum, maximum
    multiple_of: Mapping[str, int] = field(default_factory=dict)  # letter -> what it must be a multiple of

    def macros(self) -> dict[str, str]:
        """Return the constants as the text of C++ macros."""
        return {name: _literal(value) for name, value in self.constants.items()}

    def sizes(self, input_shapes: Sequence[Sequence[int]]) -> dict[str, int]:
        """Return the value of every letter in the inputs' shapes; raise KernelError for shapes of other letters."""
        if len(input_shapes) != len(self.inputs):
            raise KernelError(f"{self.entry} takes {len(self.inputs)} inputs, got {len(input_shapes)}")
        return read_sizes(self.entry, self.inputs, input_shapes)

    def bind(self, sizes: Mapping[str, int]) -> Launch:
        """Return the launch for the values of the letters; raise KernelError if the kernel or CUDA cannot take them."""
        self._check(sizes)

        def value(expression: str) -> int:
            return evaluate(expression, sizes, INTEGERS)

        x, y, z = map(value, self.grid)
        integers = tuple(value(text) for text in self.integers)
        for size, limit, what in zip((x, y, z), _MAX_BLOCKS, ("x", "y", "z"), strict=True):
            if size > limit:
                raise KernelError(f"{self.entry} would need {size} blocks in {what}, CUDA holds {limit}")
        for text, number in zip(self.integers, integers, strict=True):
            if number > _INT32_MAX:
                raise KernelError(f"{self.entry}: {text} is {number}, the kernel takes at most {_INT32_MAX}")
        shapes = tuple(tuple(value(text) for text in tensor.shape) for tensor in self.outputs)
        return Launch(grid=(x, y, z), block=self.block, integers=integers, output_shapes=shapes)

    def _check(self, sizes: Mapping[str, int]) -> None:
        for letter, (minimum, maximum) in self.limits.items():
            if not minimum <= sizes[letter] <= maximum:
                is_over = sizes[letter] > maximum
                limit = f"holds at most {letter} = {maximum}" if is_over else f"takes at least {letter} = {minimum}"
                raise KernelError(f"{self.entry} {limit}, got {sizes[letter]}")
        for letter, step in self.multiple_of.items():
            if sizes[letter] % step:
                raise KernelError(
                    f"{self.entry} takes channels-last maps of a multiple of {step} channels, got {letter} = "
                    f"{sizes[letter]}",
                    hint="use the planar layout for this number of channels",
                )


def read_sizes(owner: str, tensors: Sequence[Tensor], shapes: Sequence[Sequence[int | None]]) -> dict[str, int]:
    """Return the value of every letter in the tensors' shapes; None is a size that is not known yet.

    Raises KernelError for a shape of another rank, a letter with two values, and a size that is not what its expression
    (``"4*C"``) gives.
    """
    sizes: dict[str, int] = {}
    expected: list[tuple[Tensor, str, str, int]] = []
    for tensor, shape in zip(tensors, shapes, strict=True):
        text = f"({', '.join('?' if size is None else str(size) for size in shape)})"
        if len(shape) != len(tensor.shape):
            raise KernelError(f"{owner}: {tensor.name} must have the shape ({', '.join(tensor.shape)}), got {text}")
        for letter, size in zip(tensor.shape, shape, strict=True):
            if size is None:
                continue
            if letter.isidentifier():
                sizes.setdefault(letter, int(size))
            expected.append((tensor, letter, text, int(size)))
    for tensor, letter, text, size in expected:
        if names_in(letter) <= sizes.keys() and (wanted := evaluate(letter, sizes, INTEGERS)) != size:
            raise KernelError(f"{owner}: {letter} of {tensor.name} must be {wanted}, got {size} in {text}")
    return sizes


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Raise KernelError, which lists the choices, for a value that is not among them."""
    if value not in choices:
        raise KernelError(f"{what} must be one of {', '.join(choices)}, got {value!r}")


def _literal(value: Constant) -> str:
    if isinstance(value, tuple):
        return ",".join(_literal(item) for item in value)
    if isinstance(value, float):
        (rounded,) = struct.unpack("<f", struct.pack("<f", value))
        return f"{rounded.hex()}f"
    return str(value)
