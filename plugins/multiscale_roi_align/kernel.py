"""MultiscaleRoIAlign on CUDA: one launch for all levels."""

from __future__ import annotations

from typing import Final, Unpack

from frcnn.errors import KernelError
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.multiscale_roi_align.spec import SPEC
from frcnn.plugins.roi_pooling.kernel import PoolingOptions, pooling_kernel

_MAX_SAMPLES: Final = 16


def kernels(*, sampling_ratio: int, aligned: int, **options: Unpack[PoolingOptions]) -> tuple[Kernel]:
    """Return the kernel for the operator's attributes and a type and layout of the maps, or raise KernelError."""
    if not 0 <= sampling_ratio <= _MAX_SAMPLES:
        raise KernelError(f"sampling_ratio must be 0 to {_MAX_SAMPLES}, got {sampling_ratio}")
    if aligned not in (0, 1):
        raise KernelError(f"aligned must be 0 or 1, got {aligned}")
    constants = {"SAMPLING_RATIO": sampling_ratio, "ALIGNED": aligned}
    return (pooling_kernel(SPEC, entry="multiscale_roi_align", options=options, more=constants),)
