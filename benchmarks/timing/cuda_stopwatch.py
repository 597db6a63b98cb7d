"""Time GPU work between two events."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["CudaStopwatch"]


class CudaStopwatch:
    """Times what a call puts on PyTorch's current stream, waits of the host included, by two CUDA events."""

    def ms(self, call: Callable[[], object]) -> float:
        """Make the call, wait for its work, and return how long it took, in milliseconds."""
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))
