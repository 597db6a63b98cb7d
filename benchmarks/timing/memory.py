"""How much memory loading and first running a candidate takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["MemoryWatch"]

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


class MemoryWatch:
    """Watches the process's resident memory, and the GPU's where PyTorch finds one, from now on.

    Memory that earlier candidates released and the allocator kept is used again first and not counted, so the growth
    is a lower bound.
    """

    def __init__(self) -> None:
        try:
            _CLEAR.write_text(_RESET_PEAK)
            self._before = _resident_bytes("VmRSS")
        except OSError:
            self._before = None
        self._free_on_gpu = _free_gpu_bytes()

    def host_bytes(self) -> int | None:
        """Return how far the peak is above the beginning; None where the system does not tell."""
        peak = _resident_bytes("VmHWM")
        return None if self._before is None or peak is None else max(0, peak - self._before)

    def gpu_bytes(self) -> int | None:
        """Return how much less of the GPU's memory is free than at the beginning; None without a GPU."""
        free = _free_gpu_bytes()
        return None if free is None or self._free_on_gpu is None else max(0, self._free_on_gpu - free)


def _resident_bytes(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _free_gpu_bytes() -> int | None:
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0])
