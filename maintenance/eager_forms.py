"""Speed of torchvision's own R50-FPN on one GPU, in the forms that its users know.

``python -m maintenance.eager_forms -o eager.json [--quick]``. Needs no exporter and no engine. Measured are
*image*, from an image in device memory to boxes in device memory, as ``model(images)`` gives them, and *networks*,
the convolutions and matrix products alone (backbone, FPN, RPN head; box head on 1000 RoIs), called from Python and
replayed as a CUDA graph: what is left once proposals, pooling and detections cost nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn

from frcnn.benchmarks.timing.measure import Group, Limits, Series, cuda_ms, measure_groups
from frcnn.benchmarks.timing.statistics import noise_of, ratio_between
from frcnn.files import write_text
from maintenance.calibrated import calibrate
from maintenance.gpu_system import describe_system, has_gpu

IMAGE: Final = (600, 1000)
"""Height and width of the images; resizing to a short side of 800 fills a canvas of 800 x 1344."""

EAGER: Final = "fp32"
"""The form that others are compared with, by the clock and within rounds, where it is measured first."""

COMPILED: Final = "fp16 autocast, channels last"
"""The form that is also compiled."""

_ROIS: Final = 1000
_FORMS: Final = (EAGER, "tf32", "fp16 autocast", COMPILED, "bf16 autocast, channels last")

Call = Callable[[], object]


def make_model(image: Tensor) -> FasterRCNN:
    """Return R50-FPN with random weights calibrated on an image, on the CPU: 100 detections an image."""
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).eval()
    calibrate(model, [image])
    return model


def image_forms(model: FasterRCNN, last: FasterRCNN, images: Sequence[Tensor]) -> dict[str, Call]:
    """Return ``model(images)`` in every form.

    Args:
        model: where it is to run.
        last: the same, channels last.
        images: (3, H, W) float32 in [0, 1], likewise.
    """
    given = list(images)

    def call(model: FasterRCNN) -> Call:
        return lambda: model(given)

    return {form: _in_form(form, call(last if "last" in form else model)) for form in _FORMS}


def network_forms(last: FasterRCNN, images: Sequence[Tensor]) -> dict[str, Call]:
    """Return the networks alone in half precision, plain and as CUDA graphs: up to the RPN head; box head, predictor.

    Args:
        last: channels last, where it is to run.
        images: as for :func:`image_forms`.
    """
    half = deepcopy(last).half()
    batch = last.transform(list(images))[0].tensors.half().contiguous(memory_format=torch.channels_last)
    pooled = torch.randn(_ROIS * len(batch), half.backbone.out_channels, 7, 7, device=batch.device, dtype=batch.dtype)

    @torch.inference_mode()
    def first() -> object:
        return half.rpn.head(list(half.backbone(batch).values()))

    @torch.inference_mode()
    def second() -> object:
        return half.roi_heads.box_predictor(half.roi_heads.box_head(pooled))

    forms: dict[str, Call] = {"backbone, FPN, RPN head, fp16": first, "box head, predictor, fp16": second}
    return forms | {f"{name}, CUDA graph": graph_of(call) for name, call in forms.items()}


def graph_of(call: Call) -> Call:
    """Return what replays the launches of a call as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _in_form(form: str, run: Call) -> Call:
    half = torch.bfloat16 if form.startswith("bf16") else torch.float16

    def call() -> object:
        autocast = torch.autocast("cuda", half, enabled="autocast" in form)
        with torch.inference_mode(), _tf32(form != "fp32"), autocast:
            return run()

    return call


def compiled(last: FasterRCNN, images: Sequence[Tensor]) -> Call:
    """Return the model with ``torch.compile`` round backbone and box head; the rest of it breaks the graph."""
    model = deepcopy(last)
    model.backbone.compile()
    model.roi_heads.box_head.compile()
    return _in_form(COMPILED, lambda: model(list(images)))


class _BothClocks:
    """Times calls by the clock until their work is done, and keeps the GPU's own time of each."""

    def __init__(self) -> None:
        self.gpu_ms: list[float] = []

    def __call__(self, call: Call) -> float:
        started = time.perf_counter()
        self.gpu_ms.append(cuda_ms(call))
        return (time.perf_counter() - started) * 1e3


def _measured(forms: Mapping[str, Call], batch: int, limits: Limits) -> dict[str, Any]:
    """Time forms in interleaved rounds, the first one twice as the null pair.

    Each is called once before: choosing cuDNN's algorithms takes more than the rounds' budget.
    """
    for call in forms.values():
        with suppress(RuntimeError):  # it is told of when it is measured
            call()

    def series(name: str, *, null: bool = False) -> Series:
        return Series(candidate=name, windows=1, call=lambda _: forms[name], stopwatch=_BothClocks(), null=null)

    group = Group(scope="network", batch=batch, series=list(map(series, forms)), required=True)
    group.series.append(series(next(iter(forms)), null=True))
    measure_groups([group], limits)
    ways = {}
    for item in group.series:
        wall_ms = [ms for of_round in item.rounds for ms in of_round]
        if item.failure or not wall_ms:
            print(f"FAILED {item.candidate}: {item.failure or group.failure}", flush=True)
        elif not item.null:
            assert isinstance(item.stopwatch, _BothClocks)
            gpu_ms = item.stopwatch.gpu_ms[-len(wall_ms) :]  # after those of the warm-up
            ways[item.candidate] = {"gpu_ms": _percentiles(gpu_ms), "wall_ms": _percentiles(wall_ms)}
    first, *others, twin = group.series
    has_pair = first.rounds and twin.rounds
    times_eager = {}
    if first.candidate == EAGER and first.rounds:
        ratios = {item.candidate: ratio_between(first.rounds, item.rounds) for item in others if item.rounds}
        times_eager = {
            name: {"ratio": r.median, "min": r.min, "max": r.max, "eager": EAGER} for name, r in ratios.items()
        }
    return {
        "ways": ways,
        "times_eager": times_eager,
        "noise": noise_of(ratio_between(first.rounds, twin.rounds)) if has_pair else None,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "min": min(values), "max": max(values), "calls": len(values)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each form and write the JSON after each batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--quick", action="store_true", help="few calls")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if not has_gpu("the eager benchmark"):
        return 2
    limits = Limits(budget_s=3 if chosen.quick else 12, max_rounds=10, round_ms=250, max_calls=20, settle_s=0)
    torch.backends.cudnn.benchmark = True  # eager at its best
    report = {"environment": describe_system("maintenance.eager_forms", given)}
    measure(chosen.output, report, chosen.batches, limits)
    return 0


def keep_forms(
    path: Path,
    report: dict[str, Any],
    of_model: dict[str, Any],
    batch: int,
    what: str,
    forms: Mapping[str, Call],
    limits: Limits,
) -> None:
    """Time forms in interleaved rounds, add them to a model's measurements, print a line for each, write the report."""
    entry = {"what": what, "batch": batch, **_measured(forms, batch, limits)}
    of_model["measurements"].append(entry)
    for name, times in entry["ways"].items():
        gpu, wall = times["gpu_ms"], times["wall_ms"]["p50"]
        of_gpu = f"{gpu['p50']:.3f} ms (p90 {gpu['p90']:.3f})"
        print(f"{what}, batch {batch}, {name}: {of_gpu}, {wall:.3f} ms by the clock")
    sys.stdout.flush()
    write_text(path, json.dumps(report, indent=1) + "\n")


def measure(path: Path, report: dict[str, Any], batches: Sequence[int], limits: Limits) -> None:
    """Measure every form at every batch, what is compiled last, and write the report after each measurement.

    Args:
        path: the JSON file.
        report: what it begins with.
        batches: numbers of images.
        limits: of each measurement.
    """
    raw_images = [torch.rand(3, *IMAGE, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    made = make_model(raw_images[0])
    model, last = deepcopy(made).cuda(), made.cuda().to(memory_format=torch.channels_last)
    measured: dict[str, Any] = {"model": "r50", "artifacts": [], "detections": {}, "measurements": []}
    report |= {"image": IMAGE, "models": [measured]}

    def keep(batch: int, what: str, forms: Mapping[str, Call]) -> None:
        keep_forms(path, report, measured, batch, what, forms, limits)

    given = {batch: [raw_images[i % len(raw_images)].cuda() for i in range(batch)] for batch in batches}
    for batch, images in given.items():
        with torch.inference_mode():
            measured["detections"][str(batch)] = [len(found["boxes"]) for found in model(images)]
        keep(batch, "image", image_forms(model, last, images))
        keep(batch, "networks", network_forms(last, images))
    for batch, images in given.items():  # last, since compiling takes long
        plain = image_forms(model, last, images)[COMPILED]
        keep(batch, "image, compiled", {COMPILED: plain, f"{COMPILED}, torch.compile": compiled(last, images)})


if __name__ == "__main__":
    sys.exit(main())
