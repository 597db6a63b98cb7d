"""Which kernels an operator has, for callers that know it by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from frcnn.plugins.grouped_nms.kernel import kernels as grouped_nms_kernels
from frcnn.plugins.kernel import Element, Kernel, Layout, check_choice
from frcnn.plugins.multiscale_roi_align.kernel import kernels as multiscale_roi_align_kernels
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as multiscale_roi_pool_kernels

__all__ = ["KERNELS", "kernels_of"]

KERNELS: Final[Mapping[str, Callable[..., tuple[Kernel, ...]]]] = {
    "GroupedNMS": grouped_nms_kernels,
    "MultiscaleRoIAlign": multiscale_roi_align_kernels,
    "MultiscaleRoIPool": multiscale_roi_pool_kernels,
}
"""Operator -> the function that makes its kernels, in the order in which they run."""


def kernels_of(
    operator: str, attributes: Mapping[str, Any], *, element: Element, layout: Layout = "planar"
) -> tuple[Kernel, ...]:
    """Return the kernels of an operator in a network; its output is planar.

    Args:
        operator: ``GroupedNMS``, ``MultiscaleRoIAlign`` or ``MultiscaleRoIPool``.
        attributes: the operator's attributes by name.
        element: type of the feature maps; suppression has none and leaves it aside, like the layout.
        layout: how the feature maps lie in memory.

    Raises:
        KernelError: an unknown operator, or values that no kernel can be made for.
    """
    check_choice("operator", operator, sorted(KERNELS))
    if operator == "GroupedNMS":
        return KERNELS[operator](**attributes)
    return KERNELS[operator](element=element, layout=layout, **attributes)
