"""The TensorRT plugins of each operator: one per kernel, and per number of levels.

The exporter's lowering pass and the registration here read this table. A plugin's name, inputs and outputs are those of
its :class:`~frcnn.plugins.kernel.Kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins import grouped_nms, multiscale_roi_align, multiscale_roi_pool
from frcnn.plugins.grouped_nms import kernel as grouped_nms_kernel
from frcnn.plugins.kernel import Element, Kernel, Layout
from frcnn.plugins.multiscale_roi_align import kernel as multiscale_roi_align_kernel
from frcnn.plugins.multiscale_roi_pool import kernel as multiscale_roi_pool_kernel
from frcnn.plugins.operator import DOMAIN, Attribute, OperatorSpec
from frcnn.plugins.roi_pooling.kernel import MAX_LEVELS

__all__ = ["NAMESPACE", "PLUGINS", "PLUGINS_OF", "PLUGIN_VERSION", "Plugin", "Variant"]

NAMESPACE: Final = DOMAIN
"""The plugins' namespace in TensorRT's registry."""

PLUGIN_VERSION: Final = "1"
"""The version that TensorRT gives every quickly deployable plugin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The type and layouts of feature maps and pooled features, of which TensorRT chooses."""

    element: Element = "float32"
    layout: Layout = "planar"
    output_layout: Layout = "planar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin; ``make`` returns its kernel for a variant and the operator's attributes by name.

    Its name has no namespace. ``features`` is the index of the first feature map among the inputs, if any.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    variants: tuple[Variant, ...]
    features: int | None
    make: Callable[[Variant, Mapping[str, Any]], Kernel]


def _plugin(
    spec: OperatorSpec,
    make: Callable[[Variant, Mapping[str, Any]], Kernel],
    *,
    example: Mapping[str, Any],
    variants: tuple[Variant, ...] = (Variant(),),
) -> Plugin:
    """Return the plugin of a kernel, whose names are the same for all attributes; ``example`` has some of them."""
    kernel = make(variants[0], example)
    inputs = tuple(tensor.name for tensor in kernel.inputs)
    features = [f"{tensor.name}_0" for tensor in spec.inputs if tensor.element == "features"]
    return Plugin(
        name=kernel.plugin,
        inputs=inputs,
        outputs=tuple(tensor.name for tensor in kernel.outputs),
        attributes=tuple(attribute for attribute in spec.attributes if attribute.name in example),
        variants=variants,
        features=inputs.index(features[0]) if features else None,
        make=make,
    )


def _nms_plugins() -> tuple[Plugin, ...]:
    # only the mask kernel compares overlaps, so only its plugin has the threshold
    example, kernels = {"iou_threshold": 0.5}, grouped_nms_kernel.kernels
    return (
        _plugin(grouped_nms.SPEC, lambda _variant, attributes: kernels(**attributes)[0], example=example),
        _plugin(grouped_nms.SPEC, lambda _variant, _attributes: kernels(**example)[1], example={}),
    )


def _pooling_plugin(spec: OperatorSpec, kernels: Callable[..., tuple[Kernel]], levels: int) -> Plugin:
    def make(variant: Variant, attributes: Mapping[str, Any]) -> Kernel:
        (kernel,) = kernels(
            element=variant.element, layout=variant.layout, output_layout=variant.output_layout, **attributes
        )
        given = len(attributes["spatial_scales"])
        if given != levels:
            # another plugin's kernel: it would be launched with this plugin's arguments
            raise KernelError(f"{spec.name}{levels} takes {levels} spatial_scales, got {given}")
        return kernel

    example = dict.fromkeys((attribute.name for attribute in spec.attributes), 1)
    return _plugin(
        spec,
        make,
        example=example | {"spatial_scales": (1.0,) * levels, "level_thresholds": (1.0,) * max(1, levels - 1)},
        variants=(
            Variant(),
            Variant(layout="channels_last"),
            Variant(layout="channels_last", output_layout="channels_last"),
        ),
    )


_POOLING: Final[Sequence[tuple[OperatorSpec, Callable[..., tuple[Kernel]]]]] = (
    (multiscale_roi_align.SPEC, multiscale_roi_align_kernel.kernels),
    (multiscale_roi_pool.SPEC, multiscale_roi_pool_kernel.kernels),
)

PLUGINS_OF: Final[Mapping[tuple[str, int], tuple[Plugin, ...]]] = {
    (grouped_nms.SPEC.name, len(grouped_nms.SPEC.inputs)): _nms_plugins()
} | {
    (spec.name, len(spec.input_names(levels))): (_pooling_plugin(spec, kernels, levels),)
    for spec, kernels in _POOLING
    for levels in range(1, MAX_LEVELS + 1)
}
"""(operator, number of inputs) -> its plugins, in the order in which they run."""

PLUGINS: Final[tuple[Plugin, ...]] = tuple(plugin for plugins in PLUGINS_OF.values() for plugin in plugins)
"""Every plugin."""
