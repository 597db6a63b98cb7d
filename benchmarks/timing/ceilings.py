"""What the device can do at best, measured here and now, and the least time that the network could take with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import torch

from frcnn.benchmarks.profile.onnx_layers import Layer
from frcnn.benchmarks.report.results import Ceilings, Roofline, StageName, Work
from frcnn.benchmarks.timing.measure import CudaStopwatch, Stopwatch, WallStopwatch
from frcnn.spec import Size

__all__ = ["floor_ms", "measure_ceilings", "roofline_of"]

_COPY_BYTES: Final = {"cpu": 1 << 27, "cuda": 1 << 30}
_SIDE: Final = {"cpu": 1536, "cuda": 8192}
_REPEATS: Final = 7
_TYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_HALF: Final = ("fp16", "bf16")


def measure_ceilings(device: str) -> Ceilings:
    """Measure a large copy and large matrix products, the best of seven each.

    Half-precision products are measured on a GPU only: on a CPU candidates compute in float32.
    """
    stopwatch: Stopwatch = CudaStopwatch() if device == "cuda" else WallStopwatch()
    source = torch.ones(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_ms = min(stopwatch.ms(lambda: target.copy_(source)) for _ in range(_REPEATS))
    side = _SIDE[device]
    rates = {}
    for precision, kind in _TYPES.items():
        if device == "cpu" and precision in _HALF:
            continue
        a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
        rates[precision] = 2 * side**3 / min(stopwatch.ms(lambda: a @ b) for _ in range(_REPEATS)) * 1e3  # noqa: B023
    return Ceilings(device=device, copy_bytes_per_s=2 * len(source) / copy_ms * 1e3, matmul_flops_per_s=rates)


def floor_ms(layers: Sequence[Layer], ceilings: Ceilings, precision: str) -> float | None:
    """Return the least time of the layers, one after the other, in milliseconds; None where the rate is not known.

    The layers are those of a float32 graph; in half precision a layer moves half the bytes.
    """
    rate = ceilings.matmul_flops_per_s.get(precision)
    if rate is None:
        return None
    size = 0.5 if precision in _HALF else 1.0
    seconds = sum(max(x.flops / rate, size * x.bytes / ceilings.copy_bytes_per_s) for x in layers)
    return seconds * 1e3


def roofline_of(layers: Sequence[Layer], canvas: Size, ceilings: Sequence[Ceilings]) -> Roofline:
    """Sum layers up by stage, and find the floor on each device."""
    flops: dict[StageName, float] = defaultdict(float)
    touched: dict[StageName, float] = defaultdict(float)
    for layer in layers:
        flops[layer.stage] += layer.flops
        touched[layer.stage] += layer.bytes
    floors = {
        f"{c.device} {precision}": floor
        for c in ceilings
        for precision in c.matmul_flops_per_s
        if (floor := floor_ms(layers, c, precision)) is not None
    }
    return Roofline(
        canvas=canvas,
        work=tuple(Work(stage=stage, flops=flops[stage], bytes=touched[stage]) for stage in touched),
        ceilings=tuple(ceilings),
        floors_ms=floors,
    )
