"""The least time that a GPU needs for the work of a kernel: the roofline of the kernel benchmark.

A floor is the greatest of three times:

- memory: the bytes that must be read or written / the bandwidth of a copy, measured on the system at hand;
- arithmetic: float32 operations / (lanes of the GPU x its highest clock), one operation a lane and clock;
- launch: one kernel that does next to nothing, measured in a CUDA graph.

Bytes count once each, and only those without which the result cannot be had: cells of the maps that have a weight in
some RoI, all logits, the deltas of what is chosen, all of the output. What a kernel keeps between its launches is not
among them. A floor of memory holds where nothing lies in the L2 yet, so only cold times are compared with it.

Of arithmetic only preprocessing and the stages have little beside their bytes, so none is counted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from maintenance.kernel_timing import Implementation, Timer, quartiles_of

Bound = Literal["memory", "arithmetic", "launch"]

_ROUNDS: Final = 5
_COPIED_BYTES: Final = 2**28
_CLOCK_RATE: Final = 13  # CU_DEVICE_ATTRIBUTE_CLOCK_RATE, in kHz
_LANES: Final = {(7, 5): 64, (8, 0): 64}  # float32 lanes of a multiprocessor
_USUAL_LANES: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a case must do at least.

    Attributes:
        moved_bytes: read or written.
        operations: of float32; 0 where they are few beside the bytes.
    """

    moved_bytes: int
    operations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the system can do at most.

    Attributes:
        copy_bytes_per_us: read and written by a copy within the GPU's memory.
        operations_per_us: of float32, no multiply-add counted as two.
        launch_us: of one kernel in a CUDA graph.
    """

    copy_bytes_per_us: float
    operations_per_us: float
    launch_us: float

    def floor(self, work: Work) -> tuple[float, Bound]:
        """Return the least microseconds that the work takes, and what they are bound by."""
        times: dict[Bound, float] = {
            "memory": work.moved_bytes / self.copy_bytes_per_us,
            "arithmetic": work.operations / self.operations_per_us,
            "launch": self.launch_us,
        }
        bound = max(times, key=lambda name: times[name])
        return times[bound], bound


def measure_limits(timer: Timer) -> Limits:
    """Measure the limits of the current CUDA device; arithmetic follows from its clock and multiprocessors."""
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target, number = torch.empty_like(source), torch.zeros(1, device="cuda")
    copy = timer.prepare(Implementation(name="copy", run=lambda: target.copy_(source), capturable=True), "warm")
    launch = timer.prepare(Implementation(name="launch", run=lambda: number.add_(1), capturable=True), "warm")
    return Limits(
        copy_bytes_per_us=2 * _COPIED_BYTES / quartiles_of([copy() for _ in range(_ROUNDS)]).median,
        operations_per_us=_operations_per_us(),
        launch_us=quartiles_of([launch() for _ in range(_ROUNDS)]).median,
    )


def align_work(rois: Tensor, maps: Sequence[Tensor], out: Tensor, **attributes: Any) -> Work:
    """Return the work of RoIAlign; the attributes are those of :func:`touched_cells`."""
    cells = touched_cells(rois, [(m.shape[2], m.shape[3]) for m in maps], **attributes)
    channels = maps[0].shape[1]
    return Work(moved_bytes=cells * channels * maps[0].element_size() + bytes_of(rois, out))


def touched_cells(
    rois: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    output_height: int,
    output_width: int,
    spatial_scales: Sequence[float],
    level_thresholds: Sequence[float],
    sampling_ratio: int,
    aligned: int,
) -> int:
    """Return how many cells of all maps and images have a weight in the RoIAlign of some RoI, each counted once.

    Args:
        rois: (N, R, 4) float32, x1, y1, x2, y2 in canvas pixels; x2 < x1 or y2 < y1 where absent.
        sizes: (height, width) of each level's map.
        output_height: the operator's attribute, like those that follow.
        output_width: see the operator.
        spatial_scales: see the operator.
        level_thresholds: see the operator.
        sampling_ratio: see the operator; at least 1.
        aligned: see the operator.
    """
    sides = rois[..., 2:] - rois[..., :2]
    present = (sides >= 0).all(-1)
    levels = (sides.prod(-1).sqrt()[..., None] >= torch.tensor(level_thresholds, device=rois.device)).sum(-1)
    count = 0
    for level, ((height, width), scale) in enumerate(zip(sizes, spatial_scales, strict=True)):
        images, numbers = torch.nonzero(present & (levels == level), as_tuple=True)
        box = rois[images, numbers] * scale - (0.5 if aligned else 0.0)
        rows = _cells_of_axis(box[:, 1], box[:, 3], output_height, sampling_ratio, height, aligned)
        columns = _cells_of_axis(box[:, 0], box[:, 2], output_width, sampling_ratio, width, aligned)
        touched = torch.zeros(len(rois), height + 1, width + 1, dtype=torch.bool, device=rois.device)
        touched[images[:, None, None], rows[:, :, None], columns[:, None, :]] = True
        count += int(touched[:, :height, :width].sum())
    return count


def _cells_of_axis(first: Tensor, last: Tensor, bins: int, samples: int, cells: int, aligned: int) -> Tensor:
    """Return the cells (R, 2 x bins x samples) that the samples lie between; the one past the end for none."""
    length = last - first if aligned else (last - first).clamp(min=1)
    steps = (torch.arange(bins * samples, device=first.device) + 0.5) / (bins * samples)
    position = first[:, None] + steps * length[:, None]
    off = (position < -1) | (position > cells)
    inside = position.clamp(0, cells - 1)
    return torch.cat([found.long().masked_fill(off, cells) for found in (inside.floor(), inside.ceil())], dim=1)


def bytes_of(*tensors: Tensor) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _operations_per_us() -> float:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver, device, clock_khz = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), torch.cuda.current_device())
    driver.cuDeviceGetAttribute(ctypes.byref(clock_khz), _CLOCK_RATE, device)
    lanes = _LANES.get((properties.major, properties.minor), _USUAL_LANES)
    return float(properties.multi_processor_count * lanes * clock_khz.value / 1e3)
