"""MultiscaleRoIAlign on CUDA: one launch for all levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from frcnn.errors import KernelError
from frcnn.plugins.kernel import Element, Kernel, Layout
from frcnn.plugins.multiscale_roi_align.spec import SPEC
from frcnn.plugins.roi_pooling.kernel import pooling_kernel

__all__ = ["kernels"]

_MAX_SAMPLES: Final = 16


def kernels(
    *,
    element: Element = "float32",
    layout: Layout = "planar",
    output_layout: Layout = "planar",
    output_height: int,
    output_width: int,
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
    sampling_ratio: int,
    aligned: int,
) -> tuple[Kernel]:
    """Return the kernel for the operator's attributes and a type and layout of the maps.

    Raises:
        KernelError: a value that the kernel cannot be made for.
    """
    if not 0 <= sampling_ratio <= _MAX_SAMPLES:
        raise KernelError(f"sampling_ratio must be 0 to {_MAX_SAMPLES}, got {sampling_ratio}")
    if aligned not in (0, 1):
        raise KernelError(f"aligned must be 0 or 1, got {aligned}")
    return (
        pooling_kernel(
            SPEC,
            entry="multiscale_roi_align",
            source="multiscale_roi_align/kernel.cu",
            extra_constants={"SAMPLING_RATIO": sampling_ratio, "ALIGNED": aligned},
            element=element,
            layout=layout,
            output_layout=output_layout,
            output_height=output_height,
            output_width=output_width,
            spatial_scales=spatial_scales,
            level_thresholds=level_thresholds,
            sampling_ratio=sampling_ratio,
        ),
    )
