"""GroupedNMS on CUDA: two launches.

``GroupedNMSMask`` ranks the present boxes of each group by falling score and writes overlaps as bits;
``GroupedNMSResolve`` takes the ranks 32 at a time and keeps a box that no kept box overlaps. The first writes
``order (G, M)`` and ``overlaps (G, 16 T (T + 1))`` int32, T = ceil(M / 32), for the second: 72 KB per group of 1,000
boxes, 1.1 MB per group of 4,096. Of ``overlaps`` only the part of the present boxes is used.
"""

from __future__ import annotations

import math
from typing import Final

from frcnn.errors import KernelError
from frcnn.plugins.grouped_nms.spec import SPEC
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator import Tensor

__all__ = ["MAX_BOXES", "kernels"]

MAX_BOXES: Final = 4096
"""Most boxes per group: a block sorts them in shared memory."""

_MASK_THREADS: Final = 256
_RESOLVE_THREADS: Final = 1024
_BLOCKS_WANTED: Final = 1024  # several for each multiprocessor of the largest GPUs

_ORDER: Final = Tensor(name="order", element="int32", shape=("G", "M"))
_OVERLAPS: Final = Tensor(name="overlaps", element="int32", shape=("G", "16*ceil_div(M, 32)*(ceil_div(M, 32) + 1)"))


def kernels(*, iou_threshold: float) -> tuple[Kernel, Kernel]:
    """Return the mask and the resolve kernel; raise KernelError unless the threshold is a number from 0 to 1."""
    if not (math.isfinite(iou_threshold) and 0 <= iou_threshold <= 1):
        raise KernelError(f"iou_threshold must be from 0 to 1, got {iou_threshold}")
    boxes, scores = SPEC.inputs
    mask = Kernel(
        entry="grouped_nms_mask",
        plugin="GroupedNMSMask",
        source="grouped_nms/mask.cu",
        constants={"MAX_BOXES": MAX_BOXES, "THREADS": _MASK_THREADS, "IOU_THRESHOLD": float(iou_threshold)},
        inputs=(boxes, scores),
        integers=("M",),
        outputs=(_ORDER, _OVERLAPS),
        # enough blocks a group to fill the GPU when groups are few, few when they are many
        grid=("G", f"min(ceil_div(M, 32), max(2, ceil_div({_BLOCKS_WANTED}, max(G, 1))))", "1"),
        block=(_MASK_THREADS, 1, 1),
        at_most={"M": MAX_BOXES},
    )
    resolve = Kernel(
        entry="grouped_nms_resolve",
        plugin="GroupedNMSResolve",
        source="grouped_nms/resolve.cu",
        constants={"MAX_BOXES": MAX_BOXES, "THREADS": _RESOLVE_THREADS},
        inputs=(scores, _ORDER, Tensor(name="overlaps", element="int32", shape=("G", "W"))),
        integers=("M",),
        outputs=SPEC.outputs,
        grid=("G", "1", "1"),
        block=(_RESOLVE_THREADS, 1, 1),
        at_most={"M": MAX_BOXES},
    )
    return mask, resolve
