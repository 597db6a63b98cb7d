"""Speed of the operators' CUDA kernels against torchvision's own code, on one GPU, in one run.

``python -m maintenance.kernels -o results.json [--quick] [--inputs inputs.npz]``. Ours is timed in a CUDA graph, as
an engine runs it, and called from Python beside it; torchvision's waits for the GPU and cannot be captured. Warm and
cold L2, batches of 1, 8 and 4, inputs at random and of the demo's checkpoint. Every case is checked before it is timed;
one that is wrong or fails is reported, not timed, and the exit status is 1. What matters most comes first, and the file
is complete after every line, so that a run may be stopped at any moment.

Cold times are the ones to hold against the floor (``kernel_floors``): in a warm L2 lies what memory need not bring.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from frcnn.errors import FrcnnError
from frcnn.files import write_text
from maintenance.gpu_system import describe_system, has_gpu
from maintenance.kernel_cases import (
    OURS,
    OURS_FROM_PYTHON,
    THEIRS,
    Case,
    align_case,
    detections_case,
    preprocess_case,
    proposals_case,
)
from maintenance.kernel_floors import Bound, Limits, measure_limits
from maintenance.kernel_inputs import Inputs, demo_inputs, load_inputs, random_inputs
from maintenance.kernel_timing import Cache, CudaTimer, Quartiles, Timer, interleaved, quartiles_of, ratios

MIN_RATIO: Final = 5.0
"""Each kernel is to be at least so many times as fast as torchvision's operator."""

_CACHES: Final[tuple[Cache, ...]] = ("warm", "cold")
_RIVALS: Final = 15  # classes that share the score of a proposal where detections are dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case measured with the caches warm or cold.

    Attributes:
        case: its name.
        batch: images.
        boxes: ``random``, ``demo``, or nothing.
        cache: ``warm`` or ``cold``.
        microseconds: of a call, by implementation.
        times_torchvision: torchvision's time / ours within a round, ours in a graph.
        times_torchvision_from_python: the same, ours called from Python.
        density: share of the RoIs or pairs that are present, 0 to 1; None where there are none.
        moved_bytes: what must be read or written at least.
        floor_us: what this GPU cannot do it faster than with a cold L2; None warm.
        floor_bound: what sets the floor: ``memory``, ``arithmetic`` or ``launch``; None warm.
        of_floor: the floor / our median, the share of the roofline; 1 is the best there is; None warm.
        target_us: what we want to reach, warm.
        target_met: whether our median is within it; None where there is no target.
        ratio_met: whether the median ratio reaches :data:`MIN_RATIO`.
    """

    case: str
    batch: int
    boxes: str
    cache: Cache
    microseconds: dict[str, Quartiles]
    times_torchvision: Quartiles
    times_torchvision_from_python: Quartiles
    density: float | None
    moved_bytes: int
    floor_us: float | None
    floor_bound: Bound | None
    of_floor: float | None
    target_us: float | None
    target_met: bool | None
    ratio_met: bool


def measure(case: Case, timer: Timer, cache: Cache, *, rounds: int, limits: Limits) -> Result:
    """Measure a case.

    Args:
        case: already checked.
        timer: how.
        cache: whether the L2 is flushed before each launch.
        rounds: at least 2.
        limits: of the GPU, for the floor.
    """
    times = interleaved(case.implementations, timer, cache, rounds)
    floor, bound = limits.floor(case.work) if cache == "cold" else (None, None)
    ours, ratio = quartiles_of(times[OURS]), ratios(times, THEIRS, OURS)
    target = case.target_us if cache == "warm" else None
    return Result(
        case=case.name,
        batch=case.batch,
        boxes=case.boxes,
        cache=cache,
        microseconds={name: quartiles_of(values) for name, values in times.items()},
        times_torchvision=ratio,
        times_torchvision_from_python=ratios(times, THEIRS, OURS_FROM_PYTHON),
        density=case.density,
        moved_bytes=case.work.moved_bytes,
        floor_us=floor,
        floor_bound=bound,
        of_floor=None if floor is None else floor / ours.median,
        target_us=target,
        target_met=None if target is None else ours.median <= target,
        ratio_met=ratio.median >= MIN_RATIO,
    )


def _cases(demo: Sequence[Inputs], quick: bool) -> Iterator[partial[Case]]:
    """Give functions that make the cases, one after another, so that only one lies in the GPU's memory."""
    for batch in (1,) if quick else (1, 8, 4):
        drawn = [random_inputs(seed) for seed in range(batch)]
        dense = [random_inputs(seed, foreground=1.0, rivals=_RIVALS) for seed in range(batch)]
        yield partial(proposals_case, drawn)
        yield partial(align_case, drawn)
        yield partial(detections_case, drawn)
        yield partial(detections_case, dense)
        for element in ("float16", "float32"):
            yield partial(preprocess_case, [(1080, 1920)] * batch, element=element)
        real = [demo[i % len(demo)] for i in range(batch)] if demo else []
        if real:
            yield partial(proposals_case, real)
            yield partial(align_case, real)
            yield partial(detections_case, real)
    if not quick:
        one = [random_inputs(0)]
        yield partial(proposals_case, one, element="float32")
        yield partial(detections_case, one, element="float32")
        yield partial(align_case, one, output_layout="planar")
        yield partial(align_case, one, layout="planar", output_layout="planar")
        yield partial(align_case, one, element="bfloat16")
        yield partial(align_case, one, element="float32")
        yield partial(align_case, one, channels=64)
        yield partial(preprocess_case, [(480, 640)], element="float16")


def _demo(path: Path | None) -> tuple[list[Inputs], str]:
    """Return the demo's inputs and where they are from; none, and why, where they cannot be made."""
    if path is not None:
        return load_inputs(path), str(path.name)
    try:
        return demo_inputs(2), "made in this run"
    except (ImportError, OSError) as error:
        return [], f"left out: {error}"


def _write(path: Path, report: dict[str, Any]) -> None:
    write_text(path, json.dumps(report, indent=1) + "\n")


def _line(result: Result) -> str:
    ours, theirs = result.microseconds[OURS].median, result.microseconds[THEIRS].median
    target = "" if result.target_us is None else f"  target {result.target_us:.0f}: {_met(bool(result.target_met))}"
    floor = ""
    if result.of_floor is not None:
        floor = f"  {result.of_floor:.0%} of the floor, {result.floor_us:.1f} us of {result.floor_bound}"
    return (
        f"{result.case} {result.boxes}, batch {result.batch}, {result.cache}: {ours:.1f} us, "
        f"torchvision {theirs:.1f} us, {result.times_torchvision.median:.1f}x ({_met(result.ratio_met)}){floor}{target}"
    )


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each result and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="batch 1 and few rounds")
    parser.add_argument("--inputs", type=Path, help="the demo's inputs, from python -m maintenance.kernel_inputs")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if not has_gpu("the kernel benchmark"):
        return 2
    rounds, launches = (5, 20) if chosen.quick else (15, 50)
    timer = CudaTimer(launches)
    demo, origin = _demo(chosen.inputs)
    limits = measure_limits(timer)
    print(
        f"copy {limits.copy_bytes_per_us / 1e6:.2f} TB/s, arithmetic {limits.operations_per_us / 1e6:.1f} T/s, "
        f"launch {limits.launch_us:.1f} us",
        flush=True,
    )
    report: dict[str, Any] = {
        "environment": describe_system("maintenance.kernels", given),
        "settings": {"rounds": rounds, "launches": launches, "min_ratio": MIN_RATIO, "demo_inputs": origin},
        "limits": asdict(limits),
        "results": [],
        "failed": [],
    }
    for make in _cases(demo, chosen.quick):
        try:
            case = make()
            case.check()
            for cache in _CACHES:
                result = measure(case, timer, cache, rounds=rounds, limits=limits)
                print(_line(result), flush=True)
                report["results"].append(asdict(result))
                _write(chosen.output, report)
        except (AssertionError, FrcnnError, RuntimeError) as error:  # PyTorch's CUDA errors are RuntimeErrors
            failed = f"{make.func.__name__}, batch {len(make.args[0])}, {make.keywords}"
            print(f"FAILED {failed}: {error}", flush=True)
            report["failed"].append({"case": failed, "error": str(error)})
            _write(chosen.output, report)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
