"""MultiscaleRoIPool on CUDA: one launch for all levels."""

from __future__ import annotations

from collections.abc import Sequence

from frcnn.plugins.kernel import Element, Kernel, Layout
from frcnn.plugins.multiscale_roi_pool.spec import SPEC
from frcnn.plugins.roi_pooling.kernel import pooling_kernel

__all__ = ["kernels"]


def kernels(
    *,
    element: Element = "float32",
    layout: Layout = "planar",
    output_layout: Layout = "planar",
    output_height: int,
    output_width: int,
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
) -> tuple[Kernel]:
    """Return the kernel for the operator's attributes and a type and layout of the maps.

    Raises:
        KernelError: a value that the kernel cannot be made for.
    """
    return (
        pooling_kernel(
            SPEC,
            entry="multiscale_roi_pool",
            source="multiscale_roi_pool/kernel.cu",
            extra_constants={},
            element=element,
            layout=layout,
            output_layout=output_layout,
            output_height=output_height,
            output_width=output_width,
            spatial_scales=spatial_scales,
            level_thresholds=level_thresholds,
        ),
    )
