"""TensorRT's callbacks of a plugin, from its kernel: outputs, types and layouts, code with launch geometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins.expressions import Arithmetic, evaluate
from frcnn.plugins.kernel import ELEMENT_NUMBERS, Element, Kernel, read_sizes
from frcnn.plugins.operator import Tensor
from frcnn.plugins.tensorrt.plugins import Plugin
from frcnn.spec.engine import TENSORRT_ELEMENTS

_DATA_TYPES: Final[Mapping[str, str]] = {element: name for name, element in TENSORRT_ELEMENTS.items()}
_FEATURES: Final[Mapping[str, Element]] = {_DATA_TYPES[element]: element for element in ELEMENT_NUMBERS}
_AUTOTUNE_TYPES: Final = {"FLOAT": "FP32", "HALF": "FP16"}  # where AutoTuneCombination's names are others

# HWC8 pads the channels to a multiple of 8 in memory. The kernels read (N, H, W, C) without gaps, in vectors of 16
# bytes, so channels-last is offered only where C is a known multiple of the vector: there, HWC8 has no padding.
CHANNELS_LAST: Final = {"float32": "HWC", "float16": "HWC8", "bfloat16": "HWC8"}


class PluginCallbacks:
    """The callbacks of a plugin, over the tensor descriptors of ``tensorrt.plugin`` (``trtp``)."""

    def __init__(
        self, plugin: Plugin, trt: ModuleType, trtp: ModuleType, compile_code: Callable[[Kernel], bytes]
    ) -> None:
        self._plugin = plugin
        self._trt = trt
        self._trtp = trtp
        self._compile_code = compile_code
        self._symbols: Arithmetic[Any] = Arithmetic(
            constant=trtp.ShapeExpr, ceil_div=trtp.cdiv, minimum=trtp.min, maximum=trtp.max
        )

    def describe(
        self, inputs: Sequence[Any], attributes: Mapping[str, Any], _outputs: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Return the descriptors of the outputs; raise KernelError for what the operator does not take."""
        kernel = self._kernels(inputs, attributes)[0]
        for tensor, desc in zip(kernel.inputs, inputs, strict=True):
            if desc.dtype.name != _DATA_TYPES[tensor.element]:
                raise KernelError(
                    f"{self._plugin.name}: {tensor.name} must be {tensor.element}, got {desc.dtype.name.lower()}"
                )
        sizes = self._sizes(kernel, inputs)
        symbols = self._symbols
        if any(size.is_fake for size in sizes.values()):
            # TensorRT asks for types only. A constant of a number would belong to the builder of an earlier build.
            symbols = replace(symbols, constant=lambda _number: self._trtp.ShapeExpr())
        return tuple(
            self._trtp.from_shape_expr(
                tuple(evaluate(text, sizes, symbols) for text in tensor.shape),
                getattr(self._trt.DataType, _DATA_TYPES[tensor.element]),
            )
            for tensor in kernel.outputs
        )

    def combine(self, inputs: Sequence[Any], attributes: Mapping[str, Any], _outputs: Sequence[Any]) -> list[Any]:
        """Return the combinations of types and layouts that have kernels, for the types of the descriptors."""
        offered = []
        for kernel in self._kernels(inputs, attributes, self._channels(inputs)):
            types = [_DATA_TYPES[tensor.element] for tensor in (*kernel.inputs, *kernel.outputs)]
            names = ", ".join(_AUTOTUNE_TYPES.get(name, name) for name in types)
            offered.append(self._trtp.AutoTuneCombination(names, ", ".join(_formats(kernel))))
        return offered

    def implement(
        self, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: Sequence[Any]
    ) -> tuple[str, bytes, Any, Any]:
        """Return the kernel's name, code, launch and integers, for the types and layouts that TensorRT chose."""
        chosen = tuple(desc.format.name for desc in (*inputs, *outputs))
        kernel = {_formats(k): k for k in self._kernels(inputs, attributes, self._channels(inputs))}[chosen]
        largest = [desc.shape.max if desc.shape.is_dynamic else desc.shape for desc in inputs]
        kernel.bind(dict(_by_letter(kernel.inputs, largest)))

        sizes = self._sizes(kernel, inputs)
        launch = self._trtp.KernelLaunchParams()
        launch.grid_x, launch.grid_y, launch.grid_z = (evaluate(text, sizes, self._symbols) for text in kernel.grid)
        launch.block_x, launch.block_y, launch.block_z = kernel.block
        integers = self._trtp.SymIntExprs(len(kernel.integers))
        for index, text in enumerate(kernel.integers):
            integers[index] = evaluate(text, sizes, self._symbols)
        return kernel.entry, self._compile_code(kernel), launch, integers

    def _kernels(
        self, inputs: Sequence[Any], attributes: Mapping[str, Any], channels: int | None = None
    ) -> tuple[Kernel, ...]:
        """Return the kernel in every layout, for the type of the features."""
        plugin = self._plugin
        element: Element = "float32"
        if plugin.features is not None:
            kind = inputs[plugin.features].dtype.name
            if kind not in _FEATURES:
                raise KernelError(
                    f"{plugin.name}: {plugin.inputs[plugin.features]} must be one of {', '.join(_FEATURES.values())}, "
                    f"got {kind.lower()}"
                )
            element = _FEATURES[kind]
        return plugin.kernels(attributes, element=element, channels=channels)

    def _channels(self, inputs: Sequence[Any]) -> int | None:
        """Return the number of channels, where it is known at build time."""
        pairs = _by_letter(self._plugin.example.inputs, [desc.shape for desc in inputs])
        return next((size for letter, size in pairs if letter == "C" and size >= 0), None)

    def _sizes(self, kernel: Kernel, inputs: Sequence[Any]) -> dict[str, Any]:
        """Return the symbol of every letter in the inputs' shapes; known sizes that differ raise KernelError."""
        shapes = [list(desc.shape_expr) for desc in inputs]
        known = [[None if s.is_fake or not s.is_constant else s.constant_value() for s in shape] for shape in shapes]
        read_sizes(self._plugin.name, kernel.inputs, known)
        return dict(_by_letter(kernel.inputs, shapes))


def _by_letter(tensors: Sequence[Tensor], shapes: Sequence[Sequence[Any]]) -> list[tuple[str, Any]]:
    """Return each size that a letter names, once for each place of the letter."""
    places = [zip(tensor.shape, shape, strict=True) for tensor, shape in zip(tensors, shapes, strict=True)]
    return [(text, size) for place in places for text, size in place if text.isidentifier()]


def _formats(kernel: Kernel) -> tuple[str, ...]:
    """Return TensorRT's names of the layouts of inputs and outputs."""
    return tuple(
        CHANNELS_LAST[tensor.element] if kernel.layouts.get(tensor.name) == "channels_last" else "LINEAR"
        for tensor in (*kernel.inputs, *kernel.outputs)
    )
