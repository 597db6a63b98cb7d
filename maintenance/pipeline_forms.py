"""The whole pipeline on one GPU with networks in PyTorch, beside eager torchvision: parity, speed, stages, threads.

``python -m maintenance.pipeline_forms -o pipeline.json [--images FOLDER] [--quick]``. Needs no exporter and no engine.
*Parity* is of the demo's checkpoint on a folder of images. *Image* is from an image in device memory to boxes in device
memory, as users call it; *pipeline* is the work of our graph alone, replayed and launched step by step; *stages* are
the launches of a pipeline between events; *threads* has eight threads that detect at once. What matters most comes
first, and the file is complete after every line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.parity.comparison import compare_images, default_limits, total
from frcnn.benchmarks.timing.measure import Limits
from frcnn.benchmarks.trial import CHECKPOINT
from frcnn.errors import FrcnnError
from frcnn.exporter import load_checkpoint
from frcnn.files import write_text
from frcnn.runtime import Detector
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.runtime.gpu.cuda_device import CudaDevice
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.runtime.images.image import RGBImage, as_device_image
from frcnn.spec import Precision
from maintenance.bare_detector import BareDetector
from maintenance.bench_models import MODELS
from maintenance.eager_forms import COMPILED, IMAGE, Call, compiled, image_forms, keep_forms, make_model
from maintenance.gpu_system import describe_system, has_gpu
from maintenance.pipeline_calls import as_float, draw, graph_and_steps, left_on_device, stages_us
from maintenance.torch_detector import TorchDetector, make_detector

_BATCHES: Final = (1, 8)
_THREADS: Final = 8
_CALLS: Final = 40  # of each thread
_PRECISIONS: Final[tuple[Precision, ...]] = ("fp16", "fp32")


def measure(path: Path, report: dict[str, Any], limits: Limits, images: Path | None) -> None:
    """Measure everything and write the report after each measurement.

    Args:
        path: the JSON file.
        report: what it begins with.
        limits: of each measurement of speed.
        images: a folder of images of the demo; None: no parity.
    """
    model_report: dict[str, Any] = {"model": "r50", "artifacts": [], "detections": {}, "measurements": []}
    report |= {"image": IMAGE, "models": [model_report], "parity": [], "stages": [], "threads": [], "failed": []}

    def attempt(what: str, run: Callable[[], None]) -> None:
        try:
            run()
        except (FrcnnError, RuntimeError, AssertionError, ValueError) as error:
            print(f"FAILED {what}: {error}", flush=True)
            report["failed"].append({"case": what, "error": str(error)})
        write_text(path, json.dumps(report, indent=1) + "\n")

    for precision in _PRECISIONS:
        if images is not None:
            attempt(f"parity, {precision}", partial(_add, report["parity"], _parity, precision, images))
    torch.backends.cudnn.benchmark = True  # PyTorch at its best, eager and ours; not above, where every size is new
    raw = [draw(IMAGE, seed) for seed in range(max(_BATCHES))]
    model = make_model(as_float(raw[0].cpu()))
    made = {precision: make_detector(model, precision, architecture=_architecture()) for precision in _PRECISIONS}
    last = deepcopy(model).cuda().to(memory_format=torch.channels_last)
    plain = model.cuda()

    def speed(batch: int) -> None:
        given = raw[:batch]
        floats = [as_float(image) for image in given]
        with ExitStack() as stack:
            eager = image_forms(plain, last, floats)
            forms: dict[str, Call] = {name: eager[name] for name in ("fp32", "fp16 autocast", COMPILED)}
            forms |= {
                f"frcnn, PyTorch's networks, {precision}": stack.enter_context(_detecting(made[precision], given))
                for precision in _PRECISIONS
            }
            keep_forms(path, report, model_report, batch, "image", forms, limits)
        for precision in _PRECISIONS:
            with _bare(made[precision]) as bare:
                pipeline = bare.pipeline([as_device_image(image, name="image") for image in given])
                stages = stages_us(bare, pipeline)
                graph = {"has_graph": pipeline.has_graph, "launches": len(stages), "microseconds": stages}
                report["stages"].append({"batch": batch, "precision": precision, **graph})
                for name, us in stages.items():
                    print(f"stage, batch {batch}, {precision}, {name}: {us:.1f} us")
                forms = graph_and_steps(bare, pipeline)
                keep_forms(path, report, model_report, batch, f"pipeline, {precision}", forms, limits)

    for batch in _BATCHES:
        attempt(f"speed, batch {batch}", partial(speed, batch))

    def with_compiled() -> None:
        floats = [as_float(raw[0])]
        forms = {
            COMPILED: image_forms(plain, last, floats)[COMPILED],
            f"{COMPILED}, torch.compile": compiled(last, floats),
        }
        with _detecting(made["fp16"], raw[:1]) as ours:
            forms["frcnn, PyTorch's networks, fp16"] = ours
            keep_forms(path, report, model_report, 1, "image, compiled", forms, limits)

    attempt("speed, compiled", with_compiled)  # late, since compiling takes long
    attempt("threads", partial(_add, report["threads"], _in_threads, made["fp16"]))  # last: it sets cuDNN's switches


def _add(entries: list[dict[str, Any]], make: Callable[..., dict[str, Any]], *given: object) -> None:
    entries.append(make(*given))


def _bare(made: TorchDetector) -> BareDetector:
    return BareDetector(made.manifest, made.parts.__getitem__, CudaDevice(), made.engines)


@contextmanager
def _detecting(made: TorchDetector, images: Sequence[Tensor]) -> Iterator[Call]:
    """Yield a call of a detector on images in device memory that leaves the detections there."""
    with _detector(made) as detector:
        yield left_on_device(detector, images)


@contextmanager
def _detector(made: TorchDetector, *, workers: int = 2) -> Iterator[Detector]:
    backend = EngineBackend(made.manifest, made.parts.__getitem__, CudaDevice(), made.engines, workers=workers)
    with Detector(backend, made.manifest.source) as detector:
        yield detector


def _parity(precision: Precision, folder: Path) -> dict[str, Any]:
    """Compare the demo with eager, image by image, both canvases: each image also turned by a quarter."""
    model, _spec = load_checkpoint(CHECKPOINT, arch=MODELS["demo"].arch)
    made = make_detector(model, precision, architecture=_architecture())
    spec = made.manifest.source.model
    opened = [RGBImage.open(path) for path in sorted(folder.glob("*.png"))]
    turned = [RGBImage(pixels=np.rot90(image.pixels).copy(), name=f"{image.name}, turned") for image in opened]
    limits = default_limits(precision, spec.roi_heads.pooler.kind)
    eager = EagerDetector(model.cuda(), spec)
    with _detector(made) as detector:
        canvases = EngineCanvases(made.manifest)
        found = compare_images(eager, detector, [*opened, *turned], limits, canvases=canvases)
        parity = total(list(found), limits)
    print(f"parity, {precision}: {'AGREE' if parity.passed else 'DISAGREE'} {parity.total}", flush=True)
    assert parity.passed, f"eager and {precision} disagree: {parity.total}"
    return {"precision": precision, "images": len(parity.images), **msgspec.to_builtins(parity.total)}


def _in_threads(made: TorchDetector) -> dict[str, Any]:
    """Detect in eight threads at once on images of two canvases; raise AssertionError where an answer differs.

    cuDNN is not asked to try its algorithms, for PyTorch keeps those that it chose by thread: workers could differ.
    """
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    images = [draw(shape, seed) for shape in (IMAGE, IMAGE[::-1]) for seed in range(_THREADS // 2)]
    with _detector(made, workers=_THREADS) as detector:
        alone = [detector([image])[0] for image in images]

        def run(index: int) -> None:
            for call in range(_CALLS):
                chosen = (index + call) % len(images)
                (found,) = detector([images[chosen]])
                expected = alone[chosen]
                for name in ("boxes", "scores", "labels"):
                    assert np.array_equal(getattr(found, name), getattr(expected, name)), f"{name} differ in threads"

        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(run, range(_THREADS)))  # warm
            started = time.perf_counter()
            list(threads.map(run, range(_THREADS)))
            seconds = time.perf_counter() - started
    per_second = _THREADS * _CALLS / seconds
    print(f"{_THREADS} threads: {per_second:.0f} images/s, every detection as by one", flush=True)
    return {"threads": _THREADS, "images_per_second": per_second, "images": _THREADS * _CALLS}


def _architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each figure and write the JSON; the status is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--images", type=Path, help="folder of the demo's images, for parity")
    parser.add_argument("--quick", action="store_true", help="few calls")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if not has_gpu("the pipeline's measurement"):
        return 2
    limits = Limits(budget_s=2 if chosen.quick else 8, max_rounds=10, round_ms=250, max_calls=20, settle_s=0)
    torch.backends.cudnn.allow_tf32 = False  # it is on otherwise: eager in float32 and ours would differ
    report: dict[str, Any] = {"environment": describe_system("maintenance.pipeline_forms", given)}
    images = chosen.images if chosen.images is not None and chosen.images.is_dir() else None
    measure(chosen.output, report, limits, images)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
