"""MultiscaleRoIPool on CUDA: one launch for all levels."""

from __future__ import annotations

from typing import Unpack

from frcnn.plugins.kernel import Kernel
from frcnn.plugins.multiscale_roi_pool.spec import SPEC
from frcnn.plugins.roi_pooling.kernel import PoolingOptions, pooling_kernel


def kernels(**options: Unpack[PoolingOptions]) -> tuple[Kernel]:
    """Return the kernel for the operator's attributes and a type and layout of the maps, or raise KernelError."""
    return (pooling_kernel(SPEC, entry="multiscale_roi_pool", options=options),)
