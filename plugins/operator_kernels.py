"""The kernels of each operator, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins import OPERATORS
from frcnn.plugins.grouped_nms.kernel import kernels as grouped_nms_kernels
from frcnn.plugins.kernel import Element, Kernel, Layout, check_choice
from frcnn.plugins.multiscale_roi_align.kernel import kernels as multiscale_roi_align_kernels
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as multiscale_roi_pool_kernels

__all__ = ["kernels_for", "kernels_of"]

_KERNELS: Final[Mapping[str, Callable[..., tuple[Kernel, ...]]]] = {
    "GroupedNMS": grouped_nms_kernels,
    "MultiscaleRoIAlign": multiscale_roi_align_kernels,
    "MultiscaleRoIPool": multiscale_roi_pool_kernels,
}


def kernels_for(operator: str, attributes: Mapping[str, Any]) -> tuple[Kernel, ...]:
    """Return the kernels of an operator, in the order in which they run.

    RoI pooling takes ``element``, ``layout`` and ``output_layout`` beside its attributes. Raises KernelError for an
    unknown operator or attribute, one that is missing, and values that no kernel has.
    """
    check_choice("operator", operator, sorted(_KERNELS))
    required = [attribute.name for attribute in OPERATORS[operator].attributes]
    known = required if operator == "GroupedNMS" else [*required, "element", "layout", "output_layout"]
    missing = [name for name in required if name not in attributes]
    unknown = [name for name in attributes if name not in known]
    if missing or unknown:
        what = f"needs the attribute {missing[0]!r}" if missing else f"has no attribute {unknown[0]!r}"
        raise KernelError(f"{operator} {what}", hint=f"its attributes are {', '.join(known)}")
    return _KERNELS[operator](**attributes)


def kernels_of(
    operator: str, attributes: Mapping[str, Any], *, element: Element, layout: Layout = "planar"
) -> tuple[Kernel, ...]:
    """Return the kernels of an operator in a network, with planar output; see :func:`kernels_for`.

    ``element`` and ``layout`` are those of the feature maps; NMS has none and ignores them.
    """
    form = {} if operator == "GroupedNMS" else {"element": element, "layout": layout}
    return kernels_for(operator, {**attributes, **form})
