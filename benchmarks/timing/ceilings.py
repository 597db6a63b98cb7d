"""What the device can do at best, measured here and now, and the least time that the network could take with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch

from frcnn.benchmarks.profile.onnx_profile import COARSE
from frcnn.benchmarks.profile.profile import LayerRun
from frcnn.benchmarks.report.results import Ceilings, Roofline, StageName, Work
from frcnn.benchmarks.timing.measure import cuda_ms, wall_ms
from frcnn.spec import Size

_COPY_BYTES: Final = {"cpu": 1 << 27, "cuda": 1 << 30}
_SIDE: Final = {"cpu": 1536, "cuda": 8192}
_REPEATS: Final = 7
_TYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def measure_ceilings(device: str) -> Ceilings:
    """Measure a large copy and large matrix products, the best of seven each; half precision on a GPU only."""

    def best_s(call: Callable[[], object]) -> float:
        return min((cuda_ms if device == "cuda" else wall_ms)(call) for _ in range(_REPEATS)) / 1e3

    source = torch.ones(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = best_s(lambda: target.copy_(source))
    side = _SIDE[device]
    rates = {}
    for precision, kind in _TYPES.items():
        if device == "cuda" or precision == "fp32":
            a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
            rates[precision] = 2 * side**3 / best_s(partial(torch.matmul, a, b))
    return Ceilings(device=device, copy_bytes_per_s=2 * len(source) / copy_s, matmul_flops_per_s=rates)


def floor_ms(layers: Sequence[LayerRun], ceilings: Ceilings, precision: str) -> float | None:
    """Return the least milliseconds of a float32 graph's layers, one after the other; None without a rate.

    In half precision a layer moves half the bytes.
    """
    rate = ceilings.matmul_flops_per_s.get(precision)
    if rate is None:
        return None
    size = 0.5 if precision in ("fp16", "bf16") else 1.0
    return 1e3 * sum(max((x.flops or 0.0) / rate, size * x.bytes / ceilings.copy_bytes_per_s) for x in layers)


def roofline_of(layers: Sequence[LayerRun], canvas: Size, ceilings: Sequence[Ceilings]) -> Roofline:
    """Sum layers up by stage, and find the floor on each device."""
    by_stage: dict[StageName, list[LayerRun]] = {}
    for layer in layers:
        by_stage.setdefault(COARSE[layer.stage], []).append(layer)
    floors = {f"{c.device} {name}": floor_ms(layers, c, name) for c in ceilings for name in c.matmul_flops_per_s}
    return Roofline(
        canvas=canvas,
        work=tuple(
            Work(stage=stage, flops=sum(x.flops or 0.0 for x in those), bytes=sum(x.bytes for x in those))
            for stage, those in by_stage.items()
        ),
        ceilings=tuple(ceilings),
        floors_ms={key: floor for key, floor in floors.items() if floor is not None},
    )
