"""The TensorRT plugins of the operators: one for each kernel, and for each number of feature levels that it reads.

The registration here reads this table. A plugin's name, inputs and outputs are those of its
:class:`~frcnn.plugins.kernel.Kernel`, its attributes are those of its operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins import OPERATORS
from frcnn.plugins.kernel import Element, Kernel, Layout
from frcnn.plugins.operator import DOMAIN, Attribute
from frcnn.plugins.operator_kernels import POOLING, kernels_for
from frcnn.plugins.roi_pooling.kernel import MAX_LEVELS

NAMESPACE: Final = DOMAIN
"""The plugins' namespace in TensorRT's registry."""

PLUGIN_VERSION: Final = "1"
"""The version that TensorRT gives every quickly deployable plugin."""

_LAYOUTS: Final[tuple[tuple[Layout, Layout], ...]] = (
    ("planar", "planar"),
    ("channels_last", "planar"),
    ("channels_last", "channels_last"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A kernel of an operator as a plugin; its name has no namespace.

    The code of a kernel without inputs of the features' type is the same for all types.
    """

    operator: str
    example: Kernel  # for some attributes: the names of plugin and tensors are the same for all
    features: int | None  # index of the first input that has the type of the features

    @property
    def name(self) -> str:
        """Name of the plugin."""
        return self.example.plugin

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(tensor.name for tensor in self.example.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(tensor.name for tensor in self.example.outputs)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Attributes of the operator."""
        return OPERATORS[self.operator].attributes

    def kernels(
        self, attributes: Mapping[str, Any], *, element: Element = "float32", channels: int | None = None
    ) -> tuple[Kernel, ...]:
        """Return the kernel in every layout that TensorRT may choose, planar first, for a type of the features.

        Maps can lie channels-last only where their ``channels`` are known. Raises KernelError for attributes that no
        kernel of this plugin has.
        """
        given = {**attributes, "element": element}
        if self.operator not in POOLING:
            return (self._kernel(given),)
        made = []
        for maps, pooled in _LAYOUTS:
            form = {**given, "layout": maps, "output_layout": pooled}
            steps = self._kernel(form).multiple_of.values()
            if all(channels is not None and channels % step == 0 for step in steps):
                made.append(self._kernel({**form, "channels": channels}))
        return tuple(made)

    def _kernel(self, attributes: Mapping[str, Any]) -> Kernel:
        kernels = {kernel.plugin: kernel for kernel in kernels_for(self.operator, attributes)}
        if self.name not in kernels:  # it would be launched with this plugin's arguments
            raise KernelError(f"{self.name} got the attributes of {', '.join(kernels)}")
        return kernels[self.name]


@cache
def plugins() -> tuple[Plugin, ...]:
    """Return every plugin."""
    made: dict[str, Plugin] = {}
    for name, spec in OPERATORS.items():
        has_levels = any(tensor.variadic for tensor in spec.inputs)
        for levels in range(1, MAX_LEVELS + 1 if has_levels else 2):
            example = {attribute.name: _example(attribute, levels) for attribute in spec.attributes}
            forms = zip(kernels_for(name, example), kernels_for(name, {**example, "element": "float16"}), strict=True)
            for kernel, other in forms:  # a kernel that reads no level's tensors has one plugin for all levels
                plugin = Plugin(operator=name, example=kernel, features=_first_different(kernel, other))
                made.setdefault(plugin.name, plugin)
    return tuple(made.values())


def _example(attribute: Attribute, levels: int) -> int | float | tuple[float, ...]:
    """Return a value of an attribute that the kernels take."""
    match attribute.name:
        case "spatial_scales" | "strides":
            return (1.0,) * levels
        case "level_thresholds":
            return (1.0,) * max(1, levels - 1)
        case "anchors":
            return tuple(float(number) for level in range(levels) for number in (level, 0, 0, 1, 1))
        case "box_weights":
            return (1.0,) * 4
    return 1 if attribute.kind == "int" else 0.5


def _first_different(kernel: Kernel, other: Kernel) -> int | None:
    """Return the index of the first input that has another type in another form of a kernel."""
    pairs = zip(kernel.inputs, other.inputs, strict=True)
    return next((index for index, (one, two) in enumerate(pairs) if one.element != two.element), None)
