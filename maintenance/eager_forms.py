"""Speed of torchvision's own R50-FPN on one GPU, in the forms that its users know; all else is held against it.

``python -m maintenance.eager_forms -o eager.json [--quick]``. Needs torch and torchvision alone. Measured are
*image*, from an image in device memory to boxes in device memory, as ``model(images)`` gives them, and *networks*,
the convolutions and matrix products alone (backbone, FPN, RPN head; box head on 1000 RoIs), called from Python and
replayed as a CUDA graph: what is left once proposals, pooling and detections cost nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn

from frcnn.files import write_text
from maintenance.calibrated import calibrate
from maintenance.engine_timing import CallTimer, CudaCallTimer, Way, in_turn, percentiles

__all__ = ["IMAGE", "graph_of", "image_ways", "main", "make_model", "measure", "network_ways"]

IMAGE: Final = (600, 1000)
"""Height and width of the images; resizing to a short side of 800 fills a canvas of 800 x 1344."""

_ROIS: Final = 1000
_COMPILED: Final = "fp16 autocast, channels last"
_FORMS: Final = ("fp32", "tf32", "fp16 autocast", _COMPILED, "bf16 autocast, channels last")


def make_model(image: Tensor) -> FasterRCNN:
    """Return R50-FPN with random weights calibrated on an image, on the CPU: 100 detections an image."""
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).eval()
    calibrate(model, [image])
    return model


def image_ways(model: FasterRCNN, last: FasterRCNN, images: Sequence[Tensor]) -> list[Way]:
    """Return ``model(images)`` in every form.

    Args:
        model: where it is to run.
        last: the same, channels last.
        images: (3, H, W) float32 in [0, 1], likewise.
    """
    given = list(images)
    return [
        Way(name=form, run=_in_form(form, lambda model=last if "last" in form else model: model(given)))  # type: ignore[misc]
        for form in _FORMS
    ]


def network_ways(last: FasterRCNN, raw_images: Sequence[Tensor]) -> list[Way]:
    """Return the networks alone in half precision, plain and as CUDA graphs: up to the RPN head; box head, predictor.

    Args:
        last: channels last, where it is to run.
        raw_images: as for :func:`image_ways`.
    """
    half = deepcopy(last).half()
    images = last.transform(list(raw_images))[0].tensors.half().contiguous(memory_format=torch.channels_last)
    pooled = torch.randn(
        _ROIS * len(images), half.backbone.out_channels, 7, 7, device=images.device, dtype=images.dtype
    )

    def first() -> object:
        with torch.inference_mode():
            return half.rpn.head(list(half.backbone(images).values()))

    def second() -> object:
        with torch.inference_mode():
            return half.roi_heads.box_predictor(half.roi_heads.box_head(pooled))

    ways = [Way(name="backbone, FPN, RPN head, fp16", run=first), Way(name="box head, predictor, fp16", run=second)]
    return [*ways, *map(graph_of, ways)]


def graph_of(way: Way) -> Way:
    """Return a way as a CUDA graph of its launches."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            way.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way.run()
    return Way(name=f"{way.name}, CUDA graph", run=graph.replay)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _in_form(form: str, run: Callable[[], object]) -> Callable[[], object]:
    half = torch.bfloat16 if form.startswith("bf16") else torch.float16

    def call() -> object:
        autocast = torch.autocast("cuda", half, enabled="autocast" in form)
        with torch.inference_mode(), _tf32(form != "fp32"), autocast:
            return run()

    return call


def _measured(ways: Sequence[Way], timer: CallTimer, rounds: int, calls: int) -> dict[str, Any]:
    found = in_turn(ways, timer, rounds=rounds, calls=calls)
    return {
        name: {"gpu_ms": asdict(percentiles(times.gpu_ms)), "wall_ms": asdict(percentiles(times.wall_ms))}
        for name, times in found.items()
    }


def _compiled(last: FasterRCNN, images: Sequence[Tensor]) -> Way:
    """Return the model with ``torch.compile`` round backbone and box head; the rest of it breaks the graph."""
    model = deepcopy(last)
    model.backbone.compile()
    model.roi_heads.box_head.compile()
    return Way(name=f"{_COMPILED}, torch.compile", run=_in_form(_COMPILED, lambda: model(list(images))))


def _environment(given: Sequence[str]) -> dict[str, Any]:
    import torchvision

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cuda": torch.version.cuda,
            "cudnn": str(torch.backends.cudnn.version()),
            "python": platform.python_version(),
        },
        "command": " ".join(["python -m maintenance.eager_forms", *given]),
        "date": time.strftime("%Y-%m-%d"),
    }


def _show(batch: int, what: str, rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        gpu, wall = row["gpu_ms"], row["wall_ms"]["p50"]
        print(f"{what}, batch {batch}, {name}: {gpu['p50']:.3f} ms (p90 {gpu['p90']:.3f}), {wall:.3f} ms by the clock")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each form and write the JSON after each batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--quick", action="store_true", help="few calls")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if not torch.cuda.is_available():
        print("error: the eager benchmark needs an NVIDIA GPU and its driver, and there is none here", file=sys.stderr)
        return 2
    rounds, calls = (3, 10) if chosen.quick else (5, 20)
    report = {"environment": _environment(given), "settings": {"rounds": rounds, "calls": calls}}
    torch.backends.cudnn.benchmark = True  # eager at its best
    measure(chosen.output, report, CudaCallTimer(), chosen.batches, rounds=rounds, calls=calls)
    return 0


def measure(
    path: Path, report: dict[str, Any], timer: CallTimer, batches: Sequence[int], *, rounds: int, calls: int
) -> None:
    """Measure every form at every batch, what is compiled last, and write the report after each measurement.

    Args:
        path: the JSON file.
        report: what it begins with.
        timer: measures.
        batches: numbers of images.
        rounds: see ``in_turn``.
        calls: likewise, at batch 1; fewer at larger ones.
    """
    raw_images = [torch.rand(3, *IMAGE, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    made = make_model(raw_images[0])
    model, last = deepcopy(made).cuda(), made.cuda().to(memory_format=torch.channels_last)
    measured: dict[str, Any] = {"model": "r50", "artifacts": [], "detections": {}, "measurements": []}
    report |= {"image": IMAGE, "models": [measured]}

    def keep(batch: int, what: str, ways: Sequence[Way]) -> None:
        rows = _measured(ways, timer, rounds, max(2, calls // batch))
        measured["measurements"].append({"what": what, "batch": batch, "ways": rows})
        _show(batch, what, rows)
        write_text(path, json.dumps(report, indent=1) + "\n")

    given = {batch: [raw_images[i % len(raw_images)].cuda() for i in range(batch)] for batch in batches}
    for batch, images in given.items():
        with torch.inference_mode():
            measured["detections"][str(batch)] = [len(found["boxes"]) for found in model(images)]
        keep(batch, "image", image_ways(model, last, images))
        keep(batch, "networks", network_ways(last, images))
    for batch, images in given.items():  # last, since compiling takes long
        plain = next(way for way in image_ways(model, last, images) if way.name == _COMPILED)
        keep(batch, "image, compiled", [plain, _compiled(last, images)])


if __name__ == "__main__":
    sys.exit(main())
